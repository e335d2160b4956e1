//! Samples and rows: medians and percentiles, a figure beside its floor and its bound, and the table that is
//! printed. Pure.

use std::time::Duration;

/// A measured amount, with the unit it is shown in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Amount {
    Time(Duration),
    Bytes(u64),
    /// Share of one core.
    Core(f64),
    Count(usize),
    /// So many a second.
    Rate(f64),
}

impl Amount {
    pub fn ms(ms: u64) -> Amount {
        Amount::Time(Duration::from_millis(ms))
    }

    pub fn mib(mib: u64) -> Amount {
        Amount::Bytes(mib << 20)
    }

    fn number(self) -> f64 {
        match self {
            Amount::Time(time) => time.as_secs_f64(),
            Amount::Bytes(bytes) => bytes as f64,
            Amount::Core(share) => share,
            Amount::Count(count) => count as f64,
            Amount::Rate(rate) => rate,
        }
    }

    fn text(self) -> String {
        match self {
            Amount::Time(time) if time < Duration::from_millis(1) => {
                format!("{:.0} us", time.as_secs_f64() * 1e6)
            }
            Amount::Time(time) if time < Duration::from_millis(100) => {
                format!("{:.1} ms", time.as_secs_f64() * 1e3)
            }
            Amount::Time(time) => format!("{:.0} ms", time.as_secs_f64() * 1e3),
            Amount::Bytes(bytes) => format!("{:.2} MiB", bytes as f64 / f64::from(1 << 20)),
            Amount::Core(share) => format!("{:.3} % of a core", share * 100.0),
            Amount::Count(count) => count.to_string(),
            Amount::Rate(rate) => format!("{rate:.0}/s"),
        }
    }
}

/// Durations of one thing, many times.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<Duration>);

impl Samples {
    pub fn push(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    pub fn of(count: usize, mut once: impl FnMut() -> Duration) -> Samples {
        Samples((0..count).map(|_| once()).collect())
    }

    /// The sample at a share of the sorted list; 0.5 is the median.
    fn at(&self, share: f64) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let last = sorted.len().saturating_sub(1);
        let index = (last as f64 * share).round() as usize;
        sorted.get(index.min(last)).copied().unwrap_or_default()
    }

    pub fn median(&self) -> Duration {
        self.at(0.5)
    }

    pub fn p99(&self) -> Duration {
        self.at(0.99)
    }

    fn spread(&self) -> String {
        let text = |share| Amount::Time(self.at(share)).text();
        let range = format!("{} to {}", text(0.0), text(1.0));
        if self.0.len() < 50 { range } else { format!("{range}, p99 {}", text(0.99)) }
    }
}

/// What was promised.
#[derive(Clone, Copy, Debug)]
enum Bound {
    None,
    AtMost(Amount),
    AtLeast(Amount),
    TimesFloor(f64),
    /// It was not to be measured: what it takes is not here.
    LeftOut,
}

/// One line of the table.
#[derive(Clone, Debug)]
pub struct Row {
    figure: String,
    measured: Result<Amount, String>,
    spread: String,
    floor: Option<(Amount, String)>,
    bound: Bound,
}

impl Row {
    pub fn new(figure: impl Into<String>, measured: Amount) -> Row {
        Row {
            figure: figure.into(),
            measured: Ok(measured),
            spread: String::new(),
            floor: None,
            bound: Bound::None,
        }
    }

    pub fn times(figure: impl Into<String>, samples: &Samples) -> Row {
        let mut row = Row::new(figure, Amount::Time(samples.median()));
        row.spread = samples.spread();
        row
    }

    /// What could not be measured, and why.
    pub fn failed(figure: impl Into<String>, why: &str) -> Row {
        let mut row = Row::new(figure, Amount::Count(0));
        row.measured = Err(why.to_owned());
        row
    }

    /// What is measured only where something is there that this machine need not have, and what that is.
    pub fn left_out(figure: impl Into<String>, why: &str) -> Row {
        let mut row = Row::failed(figure, why);
        row.bound = Bound::LeftOut;
        row
    }

    pub fn note(mut self, note: impl Into<String>) -> Row {
        self.spread = note.into();
        self
    }

    /// The least that the same could cost, and what it is.
    pub fn floor(mut self, floor: Amount, what: impl Into<String>) -> Row {
        self.floor = Some((floor, what.into()));
        self
    }

    pub fn at_most(mut self, bound: Amount) -> Row {
        self.bound = Bound::AtMost(bound);
        self
    }

    pub fn at_least(mut self, bound: Amount) -> Row {
        self.bound = Bound::AtLeast(bound);
        self
    }

    pub fn at_most_times_floor(mut self, times: f64) -> Row {
        self.bound = Bound::TimesFloor(times);
        self
    }

    fn ratio(&self) -> Option<f64> {
        match (&self.measured, &self.floor) {
            (Ok(measured), Some((floor, _))) if floor.number() > 0.0 => {
                Some(measured.number() / floor.number())
            }
            _ => None,
        }
    }

    /// Whether it was measured and keeps its promise.
    pub fn holds(&self) -> bool {
        match (&self.measured, self.bound) {
            (Err(_), Bound::LeftOut) => true,
            (Err(_), _) => false,
            (Ok(_), Bound::None | Bound::LeftOut) => true,
            (Ok(measured), Bound::AtMost(bound)) => measured.number() <= bound.number(),
            (Ok(measured), Bound::AtLeast(bound)) => measured.number() >= bound.number(),
            (Ok(_), Bound::TimesFloor(times)) => self.ratio().is_some_and(|ratio| ratio <= times),
        }
    }

    fn cells(&self) -> Result<[String; 7], String> {
        let absent = if self.holds() { "left out" } else { "NOT MEASURED" };
        let measured = self.measured.as_ref().map_err(|why| format!("{absent}: {why}"))?.text();
        let floor = self.floor.as_ref().map(|(floor, what)| format!("{} {what}", floor.text()));
        let ratio = self.ratio().map(|ratio| format!("{ratio:.2}"));
        let verdict = if self.holds() { "ok" } else { "OVER" };
        let (bound, verdict) = match self.bound {
            Bound::None | Bound::LeftOut => (String::new(), ""),
            Bound::AtMost(bound) => (bound.text(), verdict),
            Bound::AtLeast(bound) => (format!("at least {}", bound.text()), verdict),
            Bound::TimesFloor(times) => (format!("{times:.2} x floor"), verdict),
        };
        let [floor, ratio] = [floor, ratio].map(Option::unwrap_or_default);
        Ok([self.figure.clone(), measured, self.spread.clone(), floor, ratio, bound, verdict.to_owned()])
    }
}

/// The whole table, aligned. A reason why something was not measured is as long as it is.
pub fn render(rows: &[Row]) -> String {
    let head = ["figure", "median", "spread", "floor", "ratio", "bound", ""].map(str::to_owned);
    let lines: Vec<(&str, Result<[String; 7], String>)> = std::iter::once(("", Ok(head)))
        .chain(rows.iter().map(|row| (row.figure.as_str(), row.cells())))
        .collect();
    let mut widths = [0; 7];
    for cells in lines.iter().filter_map(|(_, cells)| cells.as_ref().ok()) {
        for (width, cell) in widths.iter_mut().zip(cells) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for (figure, cells) in lines {
        let line = match cells {
            Ok(cells) => {
                let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
                padded.collect::<Vec<_>>().join("  ")
            }
            Err(why) => format!("{figure:width$}  {why}", width = widths[0]),
        };
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
