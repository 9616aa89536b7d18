//! A session against a message centre that the test plays, octet by octet: what it can do to us, and what we know afterwards.

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use raven_providers::{
    Bound, find,
    sms::smpp::{OK, Pdu, Settings, TRY_AGAIN, command},
};
use serde_json::{Value, json};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    task::JoinHandle,
    time::Instant,
};

use super::*;

/// Much shorter than in production, and long enough for a busy machine.
const PACE: Pace = Pace { idle: Duration::from_millis(300), answer: Duration::from_millis(300), goodbye: Duration::from_millis(300) };
const PATIENT: Pace = Pace { idle: Duration::from_secs(60), answer: Duration::from_secs(60), goodbye: Duration::from_secs(60) };

fn settings() -> Box<Settings> {
    let members = |value: Value| value.as_object().expect("an object").clone();
    let public = members(json!({ "host": "smpp.example.com", "system_id": "acme" }));
    let bound = find("smpp").expect("it is in the catalog").bind(&public, &members(json!({ "password": "hushhush" })));
    let Ok(Bound::Smpp(settings)) = bound else { panic!("it speaks SMPP") };
    settings
}

/// The other side.
struct Centre {
    stream: DuplexStream,
    read: BytesMut,
}

impl Centre {
    async fn hears(&mut self) -> Option<(u32, u32, u32)> {
        loop {
            if let Some(length) = Pdu::whole(&self.read).expect("we write good PDUs") {
                let pdu = self.read.split_to(length);
                let pdu = Pdu::read(&pdu).expect("a whole one");
                return Some((pdu.command, pdu.status, pdu.sequence));
            }
            if self.stream.read_buf(&mut self.read).await.ok()? == 0 {
                return None;
            }
        }
    }

    /// The next one that is no question whether it is there; those are answered.
    async fn hears_but_enquiries(&mut self) -> Option<(u32, u32, u32)> {
        loop {
            match self.hears().await? {
                (command::ENQUIRE_LINK, _, sequence) => self.says(command::answer(command::ENQUIRE_LINK), OK, sequence, b"").await,
                other => return Some(other),
            }
        }
    }

    async fn says(&mut self, command: u32, status: u32, sequence: u32, body: &[u8]) {
        let mut bytes = Vec::new();
        Pdu { command, status, sequence, body }.write(&mut bytes);
        self.says_octets(&bytes).await;
    }

    async fn says_octets(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("somebody listens");
    }
}

struct Session {
    link: Arc<Link>,
    run: JoinHandle<End>,
    centre: Centre,
}

impl Session {
    /// Submits, in a task of its own.
    fn submit(&self, body: &[u8]) -> JoinHandle<Fate> {
        let (link, body, end) = (self.link.clone(), body.to_vec(), Instant::now() + Duration::from_secs(20));
        tokio::spawn(async move { link.submit(body, end, end).await })
    }
}

fn stores() -> Take {
    Arc::new(|_| futures_util::future::ready(true).boxed())
}

/// A bound session over a pipe with room for so many bytes each way.
async fn begun(room: usize, window: u8, pace: Pace, take: Take) -> Session {
    let (ours, theirs) = tokio::io::duplex(room);
    let mut centre = Centre { stream: theirs, read: BytesMut::new() };
    let mut wire = Wire::new(ours);
    let settings = settings();
    let (bound, ()) = tokio::join!(wire.bind(&settings), async {
        let (command, _, sequence) = centre.hears().await.expect("a bind");
        centre.says(command::answer(command), OK, sequence, b"centre\0").await;
    });
    bound.expect("it is bound");
    let (link, task) = session(wire, window, pace, take);
    Session { link: Arc::new(link), run: tokio::spawn(task.run()), centre }
}

const SUBMIT_ANSWER: u32 = command::answer(command::SUBMIT_SM);

#[tokio::test]
async fn answers_find_their_messages_in_any_order() {
    let mut s = begun(4096, 3, PATIENT, stores()).await;
    let (one, two) = (s.submit(b"one"), s.submit(b"two"));
    let first = s.centre.hears().await.expect("a message");
    let second = s.centre.hears().await.expect("another");
    s.centre.says(SUBMIT_ANSWER, OK, 999, b"nobody's\0").await;
    s.centre.says(SUBMIT_ANSWER, OK, second.2, b"second\0").await;
    s.centre.says(command::GENERIC_NACK, 3, first.2, b"").await;
    let said = |fate: Fate| match fate {
        Fate::Answered(pdu) => Pdu::read(&pdu).map(|pdu| (pdu.status, pdu.message_id())).expect("a PDU"),
        other => panic!("{other:?}"),
    };
    let mut fates = [said(one.await.expect("it ran")), said(two.await.expect("it ran"))];
    fates.sort();
    assert_eq!(fates, [(0, "second".to_owned()), (3, String::new())]);
}

#[tokio::test]
async fn no_more_messages_wait_for_answers_than_the_window_has_places() {
    let mut s = begun(4096, 1, PATIENT, stores()).await;
    let one = s.submit(b"one");
    let first = s.centre.hears().await.expect("a message");
    let soon = Instant::now() + Duration::from_millis(50);
    assert_eq!(s.link.submit(b"two".to_vec(), soon, soon + Duration::from_secs(9)).await, Fate::Crowded);
    s.centre.says(SUBMIT_ANSWER, OK, first.2, b"1\0").await;
    assert!(matches!(one.await, Ok(Fate::Answered(_))));
    let three = s.submit(b"three");
    assert!(s.centre.hears().await.is_some(), "there is room again");
    s.link.close();
    drop(s.centre);
    assert_eq!(three.await.expect("it ran"), Fate::Lost);
}

#[tokio::test]
async fn a_message_that_was_begun_is_lost_with_the_connection_and_one_that_was_not_was_not_sent() {
    // The pipe takes the first one's beginning, and nobody reads on.
    let s = begun(64, 5, PATIENT, stores()).await;
    let fates = [s.submit(&[1; 200]), s.submit(&[2; 200]), s.submit(&[3; 200])];
    while s.link.room() > 2 {
        tokio::task::yield_now().await;
    }
    let Session { link, run, mut centre } = s;
    // Something of it has arrived.
    assert_eq!(centre.stream.read_u32().await.expect("its length"), 216);
    drop(centre);
    let mut ends = Vec::new();
    for fate in fates {
        ends.push(fate.await.expect("it ran"));
    }
    assert_eq!(ends.iter().filter(|fate| **fate == Fate::Lost).count(), 1, "{ends:?}");
    assert_eq!(ends.iter().filter(|fate| **fate == Fate::NotWritten).count(), 2, "{ends:?}");
    assert_ne!(run.await.expect("no panic"), CLOSED);
    assert!(!link.is_up());
    let now = Instant::now() + Duration::from_secs(20);
    assert_eq!(link.submit(b"late".to_vec(), now, now).await, Fate::NotWritten);
}

#[tokio::test]
async fn impossible_octets_end_the_session() {
    for octets in [&[0xff_u8, 0xff, 0xff, 0xff][..], &[0, 0, 0, 4], &[0, 0, 0, 0], b"HTTP/1.1 400 Bad Request\r\n\r\n"] {
        let mut s = begun(4096, 5, PATIENT, stores()).await;
        let one = s.submit(b"one");
        s.centre.hears().await.expect("a message");
        s.centre.says_octets(octets).await;
        assert_eq!(s.run.await.expect("no panic"), "what came is no SMPP", "{octets:?}");
        assert_eq!(one.await.expect("it ran"), Fate::Lost);
    }
}

#[tokio::test]
async fn half_a_pdu_is_waited_for_and_unknown_ones_are_told_so() {
    let mut s = begun(4096, 5, PATIENT, stores()).await;
    let mut bytes = Vec::new();
    Pdu { command: 0x0000_0103, status: OK, sequence: 41, body: b"data_sm" }.write(&mut bytes);
    Pdu { command: command::ALERT_NOTIFICATION, status: OK, sequence: 42, body: b"" }.write(&mut bytes);
    Pdu { command: command::ENQUIRE_LINK, status: OK, sequence: 43, body: b"" }.write(&mut bytes);
    for byte in bytes {
        s.centre.says_octets(&[byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(s.centre.hears().await, Some((command::GENERIC_NACK, 3, 41)));
    assert_eq!(s.centre.hears().await, Some((command::answer(command::ENQUIRE_LINK), OK, 43)), "an alert wants no answer");
}

#[tokio::test]
async fn deliveries_are_answered_when_they_are_stored_and_others_are_to_come_again() {
    let works = Arc::new(AtomicBool::new(true));
    let take: Take = {
        let works = works.clone();
        Arc::new(move |pdu: Bytes| {
            let kept = works.load(Ordering::Relaxed) && pdu.ends_with(b"Hi");
            async move { kept }.boxed()
        })
    };
    let mut s = begun(4096, 5, PATIENT, take).await;
    let answer = command::answer(command::DELIVER_SM);
    s.centre.says(command::DELIVER_SM, OK, 7, b"Hi").await;
    assert_eq!(s.centre.hears().await, Some((answer, OK, 7)));
    works.store(false, Ordering::Relaxed);
    s.centre.says(command::DELIVER_SM, OK, 8, b"Hi").await;
    assert_eq!(s.centre.hears().await, Some((answer, TRY_AGAIN, 8)));
}

#[tokio::test]
async fn a_flood_of_deliveries_waits_outside() {
    // Nothing is ever stored.
    let mut s = begun(1 << 14, 5, PATIENT, Arc::new(|_| futures_util::future::pending().boxed())).await;
    for sequence in 0..100 {
        s.centre.says(command::DELIVER_SM, OK, sequence, b"Hi").await;
    }
    for sequence in 64..100 {
        assert_eq!(s.centre.hears().await, Some((command::answer(command::DELIVER_SM), TRY_AGAIN, sequence)));
    }
    // Whoever asks and does not read is not read any more.
    let room = (2 * (1 << 14) + UNWRITTEN) / 16 + 2000;
    let mut asked = 0;
    for sequence in 0..u32::try_from(2 * room).expect("a small number") {
        let says = s.centre.says(command::ENQUIRE_LINK, OK, sequence, b"");
        if tokio::time::timeout(Duration::from_secs(1), says).await.is_err() {
            break;
        }
        asked += 1;
    }
    assert!(asked < room, "{asked} questions were read");
}

#[tokio::test]
async fn a_silent_message_centre_is_asked_and_then_left() {
    let mut s = begun(4096, 5, PACE, stores()).await;
    let (asked, _, sequence) = s.centre.hears().await.expect("a question");
    assert_eq!(asked, command::ENQUIRE_LINK);
    s.centre.says(command::answer(command::ENQUIRE_LINK), OK, sequence, b"").await;
    // It was there. Now it is not any more: a byte is no sign of life.
    assert_eq!(s.centre.hears().await.map(|pdu| pdu.0), Some(command::ENQUIRE_LINK));
    s.centre.says_octets(&[0]).await;
    assert_eq!(s.run.await.expect("no panic"), "the message centre is silent");
}

#[tokio::test]
async fn a_message_without_an_answer_in_time_may_have_gone_out_and_gives_its_place_back() {
    let mut s = begun(4096, 1, PACE, stores()).await;
    let one = s.submit(b"one");
    let (_, _, sequence) = s.centre.hears_but_enquiries().await.expect("a message");
    let answers = tokio::spawn(async move {
        let late = s.centre.hears_but_enquiries().await;
        (late, s.centre)
    });
    assert_eq!(one.await.expect("it ran"), Fate::Lost);
    // The session lives: what was asked is answered.
    let end = Instant::now() + Duration::from_secs(20);
    let link = s.link.clone();
    let two = tokio::spawn(async move { link.submit(b"two".to_vec(), end, end).await });
    let (second, mut centre) = answers.await.expect("it ran");
    centre.says(SUBMIT_ANSWER, OK, sequence, b"late\0").await;
    centre.says(SUBMIT_ANSWER, OK, second.expect("another message").2, b"2\0").await;
    let Ok(Fate::Answered(answer)) = two.await else { panic!("it is answered") };
    assert_eq!(Pdu::read(&answer).expect("a PDU").message_id(), "2", "the late answer is nobody's");
}

#[tokio::test]
async fn one_that_reads_nothing_is_left() {
    let s = begun(64, 5, PACE, stores()).await;
    let one = s.submit(&[1; 200]);
    let mut centre = s.centre;
    // It talks, and does not listen.
    let talk = tokio::spawn(async move {
        let mut sequence = 0;
        let mut bytes = Vec::new();
        loop {
            sequence += 1;
            bytes.clear();
            Pdu { command: command::ALERT_NOTIFICATION, status: OK, sequence, body: b"" }.write(&mut bytes);
            if centre.stream.write_all(&bytes).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
    });
    assert_eq!(one.await.expect("it ran"), Fate::Lost);
    let end = s.run.await.expect("no panic");
    assert!(["the message centre reads nothing", "the message centre is silent"].contains(&end), "{end}");
    talk.abort();
}

#[tokio::test]
async fn both_sides_end_a_session_in_order() {
    let mut s = begun(4096, 5, PATIENT, stores()).await;
    let one = s.submit(b"one");
    let (_, _, sequence) = s.centre.hears().await.expect("a message");
    s.link.close();
    assert!(!s.link.is_up());
    s.centre.says(SUBMIT_ANSWER, OK, sequence, b"1\0").await;
    assert!(matches!(one.await, Ok(Fate::Answered(_))), "what is outstanding ends before");
    let (unbind, _, sequence) = s.centre.hears().await.expect("a goodbye");
    assert_eq!(unbind, command::UNBIND);
    s.centre.says(command::answer(command::UNBIND), OK, sequence, b"").await;
    assert_eq!(s.run.await.expect("no panic"), CLOSED);
    assert_eq!(s.centre.hears().await, None);

    let mut s = begun(4096, 5, PATIENT, stores()).await;
    s.centre.says(command::UNBIND, OK, 5, b"").await;
    assert_eq!(s.centre.hears().await, Some((command::answer(command::UNBIND), OK, 5)));
    assert_eq!(s.run.await.expect("no panic"), "the message centre ended the session");
}

#[tokio::test]
async fn a_bind_that_is_refused_or_answered_with_noise_is_told() {
    for (answer, expected) in [
        (Some((command::answer(command::BIND_TRANSCEIVER), 0x0e)), "invalid_credentials"),
        (Some((command::GENERIC_NACK, 0x03)), "transceiver_refused"),
        (Some((command::answer(command::BIND_TRANSCEIVER), 0x05)), "already_bound"),
        (Some((SUBMIT_ANSWER, 0)), "bind_refused"),
        (None, "provider_unreachable"),
    ] {
        let (ours, theirs) = tokio::io::duplex(4096);
        let mut centre = Centre { stream: theirs, read: BytesMut::new() };
        let mut wire = Wire::new(ours);
        let settings = settings();
        let (bound, ()) = tokio::join!(wire.bind(&settings), async {
            let (_, _, sequence) = centre.hears().await.expect("a bind");
            match answer {
                Some((command, status)) => centre.says(command, status, sequence, b"").await,
                None => centre.says_octets(b"SSH-2.0-OpenSSH_9.6\r\n").await,
            }
        });
        let error = bound.expect_err("there is no session");
        assert_eq!(error.code, expected);
        assert!(!format!("{error:?}").contains("hushhush"));
    }
}
