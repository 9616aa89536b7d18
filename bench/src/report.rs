//! The table, and what stands below it.

use std::{
    fmt::Write as _,
    sync::{Mutex, PoisonError},
};

/// Was a goal met?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Met {
    Yes,
    No,
    /// There is none, or this run can't tell.
    Open,
}

impl Met {
    /// Whether a goal was met.
    pub(crate) const fn of(met: bool) -> Self {
        if met { Self::Yes } else { Self::No }
    }

    /// Both goals together: one that was missed decides, then one that can't be told.
    pub(crate) const fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::No, _) | (_, Self::No) => Self::No,
            (Self::Open, _) | (_, Self::Open) => Self::Open,
            (Self::Yes, Self::Yes) => Self::Yes,
        }
    }
}

/// A line of the table.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) figure: String,
    pub(crate) measured: String,
    pub(crate) goal: &'static str,
    pub(crate) met: Met,
    /// Where the CPU time of a message went.
    pub(crate) cpu: String,
}

/// What was measured so far. A run that is cut short keeps what it has.
#[derive(Debug, Default)]
pub(crate) struct Report {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    rows: Vec<Row>,
    notes: Vec<String>,
}

impl Report {
    /// Adds a line.
    pub(crate) fn row(&self, row: Row) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).rows.push(row);
    }

    /// Adds a remark, or the numbers behind a line.
    pub(crate) fn note(&self, note: String) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).notes.push(note);
    }

    /// The table.
    pub(crate) fn table(&self) -> String {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::from("| figure | measured | goal | met | CPU per message, µs |\n|---|---|---|---|---|\n");
        for Row { figure, measured, goal, met, cpu } in &inner.rows {
            let met = match met {
                Met::Yes => "yes",
                Met::No => "**no**",
                Met::Open => "–",
            };
            let _ = writeln!(text, "| {figure} | {measured} | {goal} | {met} | {cpu} |");
        }
        text
    }

    /// What stands below it: one line each.
    pub(crate) fn notes(&self) -> String {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.notes.iter().fold(String::new(), |mut text, note| {
            let _ = writeln!(text, "- {note}");
            text
        })
    }

    /// Everything, as it is kept.
    pub(crate) fn document(&self, title: &str, machine: &[(&'static str, String)]) -> String {
        let mut text = format!("# {title}\n\n");
        for (name, value) in machine {
            let _ = writeln!(text, "- {name}: {value}");
        }
        let _ = write!(text, "\n{}\n## The numbers behind it\n\n{}", self.table(), self.notes());
        text
    }
}

/// A rate, short: `66.1 k/s`, `950 /s`.
pub(crate) fn rate(per_second: f64) -> String {
    if per_second >= 1000.0 { format!("{:.1} k/s", per_second / 1e3) } else { format!("{per_second:.0} /s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_a_line_for_each_figure_and_a_document_has_it_all() {
        let report = Report::default();
        report.row(Row { figure: "a".to_owned(), measured: "1 %".to_owned(), goal: "≥ 2 %", met: Met::of(false), cpu: String::new() });
        report.note("because".to_owned());
        assert!(report.table().ends_with("| a | 1 % | ≥ 2 % | **no** |  |\n"));
        let document = report.document("Title", &[("kernel", "6".to_owned())]);
        for part in ["# Title\n", "- kernel: 6\n", "| a | 1 %", "- because\n"] {
            assert!(document.contains(part), "{part} is missing in {document}");
        }
    }

    #[test]
    fn of_two_goals_the_worse_one_counts() {
        let all = [Met::Yes, Met::Open, Met::No];
        for (a, first) in all.into_iter().enumerate() {
            for (b, second) in all.into_iter().enumerate() {
                assert_eq!(first.and(second), all[a.max(b)], "{first:?} and {second:?}");
            }
        }
    }

    #[test]
    fn rates_are_short() {
        assert_eq!((rate(949.6).as_str(), rate(66_149.0).as_str()), ("950 /s", "66.1 k/s"));
    }
}
