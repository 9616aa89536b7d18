//! The open loop: requests leave by a fixed timetable, whether or not earlier ones are answered.
//!
//! A request that leaves late because its connection still waits for an answer is counted from when it was due, so a server
//! that stalls can't hide it (no coordinated omission). One that leaves late only because the machine woke the sender late
//! is counted from when it left: that delay is the machine's, and on an idle virtual CPU it is several milliseconds.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, ensure};

use crate::{http, template::Template};

/// Time for the threads to start.
const LEAD: Duration = Duration::from_millis(50);

/// A timetable.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timetable {
    /// Number of the first request.
    pub(crate) first: u64,
    /// How many.
    pub(crate) count: u64,
    /// How far apart.
    pub(crate) gap: Duration,
    /// Connections, each with a thread of its own that serves every so-manieth request.
    pub(crate) connections: u64,
}

/// One request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    pub(crate) number: u64,
    /// From when it counts.
    pub(crate) at: Instant,
    /// When its answer was there.
    pub(crate) answered: Instant,
}

/// Sends them all, made of these templates in turn, and waits for the answers. Blocks.
pub(crate) fn run(address: SocketAddr, templates: &[Template], timetable: Timetable) -> Result<Vec<Sent>> {
    let begin = Instant::now() + LEAD;
    std::thread::scope(|scope| {
        let senders: Vec<_> =
            (0..timetable.connections).map(|n| scope.spawn(move || send(address, templates, timetable, begin, n))).collect();
        let mut all = Vec::new();
        for sender in senders {
            all.extend(sender.join().map_err(|_| anyhow!("a sender failed"))??);
        }
        Ok(all)
    })
}

fn send(address: SocketAddr, templates: &[Template], timetable: Timetable, begin: Instant, offset: u64) -> Result<Vec<Sent>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let mut requests: Vec<Vec<u8>> = templates.iter().map(Template::copy).collect();
    let mut buffer = vec![0; 16 * 1024];
    let mut sent = Vec::new();
    for n in (offset..timetable.count).step_by(timetable.connections as usize) {
        let number = timetable.first + n;
        let turn = n as usize % templates.len();
        let request = &mut requests[turn];
        templates[turn].write(request, number);
        let due = begin + timetable.gap * u32::try_from(n)?;
        let wait = due.saturating_duration_since(Instant::now());
        let at = if wait.is_zero() {
            due
        } else {
            std::thread::sleep(wait);
            Instant::now()
        };
        stream.write_all(request)?;
        let mut filled = 0;
        let head = loop {
            let read = stream.read(&mut buffer[filled..])?;
            ensure!(read > 0, "the connection was closed, or an answer was too long");
            filled += read;
            if let Some(head) = http::head(&buffer[..filled]).filter(|head| head.total() <= filled) {
                break head;
            }
        };
        ensure!((200..300).contains(&head.status), "an answer was {}", String::from_utf8_lossy(&buffer[..filled]));
        sent.push(Sent { number, at, answered: Instant::now() });
    }
    Ok(sent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{sink::Sink, template::Keys};

    #[test]
    fn each_number_is_sent_once_by_the_template_whose_turn_it_is_and_counts_from_no_earlier_than_it_was_due() {
        let sink = Sink::start().expect("it starts");
        sink.note();
        let templates = ["mark##########", "##########"].map(|text| Template::message("k", text, Keys::Absent));
        let timetable = Timetable { first: 100, count: 40, gap: Duration::from_micros(200), connections: 3 };
        let mut sent = run(sink.address, &templates, timetable).expect("all are answered");
        sent.sort_by_key(|s| s.number);
        assert_eq!(sent.iter().map(|s| s.number).collect::<Vec<_>>(), (100..140).collect::<Vec<_>>());
        assert!(sent.iter().all(|s| s.answered >= s.at));
        let mut marked: Vec<u64> = sink.take_notes().iter().map(|n| n.0).collect();
        marked.sort_unstable();
        assert_eq!(marked, (100..140).step_by(2).collect::<Vec<_>>());
        assert_eq!(sink.arrivals().count(), 40);
    }
}
