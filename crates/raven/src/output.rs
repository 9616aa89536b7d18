//! What commands print: to standard output, without a panic when nobody reads it any more.

use std::io::{self, IsTerminal, Write};

/// Standard output, and whether a human looks at it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    colours: bool,
}

impl Output {
    /// Colours for a terminal, unless the environment asks for none (`plain`).
    pub(crate) fn new(plain: bool) -> Self {
        Self { colours: !plain && io::stdout().is_terminal() }
    }

    /// Prints a line.
    pub(crate) fn line(self, text: impl AsRef<str>) -> io::Result<()> {
        let mut out = io::stdout().lock();
        match out.write_all(text.as_ref().as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush()) {
            // Whoever read has seen enough (`raven keys list | head -1`): no failure of ours.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            done => done,
        }
    }

    /// Prints JSON for programs.
    pub(crate) fn json(self, value: &serde_json::Value) -> io::Result<()> {
        self.line(format!("{value:#}"))
    }

    /// Prints rows below a heading, columns aligned.
    pub(crate) fn table(self, heading: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
        let width = |n: usize| rows.iter().map(|row| row[n].chars().count()).chain([heading[n].len()]).max().unwrap_or(0);
        let widths: Vec<usize> = (0..heading.len()).map(width).collect();
        let heading = heading.iter().map(|h| (*h).to_owned()).collect::<Vec<_>>();
        for (n, row) in std::iter::once(&heading).chain(rows).enumerate() {
            let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, w)| format!("{cell:<w$}")).collect();
            let line = cells.join("  ").trim_end().to_owned();
            self.line(if n == 0 { self.bold(&line) } else { line })?;
        }
        Ok(())
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    pub(crate) fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    pub(crate) fn green(self, text: &str) -> String {
        self.paint("32", text)
    }

    pub(crate) fn yellow(self, text: &str) -> String {
        self.paint("33", text)
    }

    pub(crate) fn red(self, text: &str) -> String {
        self.paint("31", text)
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}
