//! What a bench leaves for the report: tables and charts in
//! `target/bench/NAME.json`, with the command that repeats them and the
//! machine they were measured on.
//!
//! ```no_run
//! use vmcask_benches::record::{Axis, Chart, Record, Series, Spread, Table};
//!
//! let mut table = Table::new("Reading", &[("reader", ""), ("page", "µs"), ("ratio", "")]);
//! table.row(["ours".into(), Spread::of(vec![9.0, 8.0, 10.0]).into(), 1.0.into()]);
//! let mut chart = Chart::new("Reading", Axis::log("machine", "GiB"), Axis::linear("page", "µs"));
//! chart.series("ours", [(1.0, 9.0), (2.0, 9.5)]);
//! Record::new("reading", "Random pages", "cargo bench -p vmcask-benches --bench reading")
//!     .about("A page in a frame that isn't in the cache.")
//!     .table(table)
//!     .chart(chart)
//!     .save()
//!     .expect("room for a small file");
//! ```

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
pub use vmcask_measure::Spread;

/// Everything one bench has to say.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// The file's name without `.json`: lower case, digits, `-`.
    pub name: String,
    /// The report's heading.
    pub title: String,
    /// What repeats it, from the workspace's root.
    pub command: String,
    /// Paragraphs under the heading: what is measured, and on what.
    pub about: Vec<String>,
    /// Tables, in order.
    pub tables: Vec<Table>,
    /// Charts, shown behind the tables.
    pub charts: Vec<Chart>,
    /// Where and when.
    pub place: Place,
}

impl Record {
    /// An empty one, on this machine, now.
    pub fn new(name: &str, title: &str, command: &str) -> Self {
        Self {
            name: name.into(),
            title: title.into(),
            command: command.into(),
            about: Vec::new(),
            tables: Vec::new(),
            charts: Vec::new(),
            place: Place::here(),
        }
    }

    /// Adds a paragraph.
    #[must_use]
    pub fn about(mut self, text: impl Into<String>) -> Self {
        self.about.push(text.into());
        self
    }

    /// Adds a table.
    #[must_use]
    pub fn table(mut self, table: Table) -> Self {
        self.tables.push(table);
        self
    }

    /// Adds a chart.
    #[must_use]
    pub fn chart(mut self, chart: Chart) -> Self {
        self.charts.push(chart);
        self
    }

    /// Writes `target/bench/NAME.json`, whole or not at all, in the place of
    /// an earlier one, and prints the tables.
    pub fn save(&self) -> io::Result<PathBuf> {
        let dir = dir();
        std::fs::create_dir_all(&dir)?;
        let path = dir.join(format!("{}.json", self.name));
        let mut file = tempfile::NamedTempFile::new_in(&dir)?;
        serde_json::to_writer_pretty(&mut file, self)?;
        file.flush()?;
        file.as_file().sync_all()?;
        file.persist(&path)?;
        print!("{}", crate::text::of(self));
        println!("written to {}", path.display());
        Ok(path)
    }

    /// Reads what [`Record::save`] wrote.
    pub fn read(path: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&std::fs::read(path)?)?)
    }
}

/// Where records lie: `bench` in cargo's target folder.
pub fn dir() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from);
    let target = target.canonicalize().unwrap_or(target);
    target.join("bench")
}

/// A table. Ratios are columns of their own.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Table {
    /// What it shows.
    pub title: String,
    /// Its columns.
    pub columns: Vec<Column>,
    /// As many cells as columns, each.
    pub rows: Vec<Vec<Cell>>,
    /// Sentences below it.
    pub notes: Vec<String>,
}

/// The head of a column.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Column {
    /// What it has.
    pub name: String,
    /// Unit of its numbers; empty where they have none.
    pub unit: String,
}

/// One value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Cell {
    /// Of several passes.
    Spread(Spread),
    /// A number in the column's unit.
    Number(f64),
    /// Words.
    Text(String),
    /// Not measured, or it has no meaning here.
    Nothing,
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<f64> for Cell {
    fn from(number: f64) -> Self {
        if number.is_finite() { Self::Number(number) } else { Self::Nothing }
    }
}

impl From<Spread> for Cell {
    fn from(spread: Spread) -> Self {
        Self::Spread(spread)
    }
}

impl<T: Into<Cell>> From<Option<T>> for Cell {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Nothing, Into::into)
    }
}

impl Table {
    /// A table without rows; columns are names and units.
    pub fn new(title: &str, columns: &[(&str, &str)]) -> Self {
        let column = |&(name, unit): &(&str, &str)| Column { name: name.into(), unit: unit.into() };
        Self {
            title: title.into(),
            columns: columns.iter().map(column).collect(),
            rows: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Adds a row; panics where it hasn't as many cells as there are columns.
    pub fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        let cells: Vec<_> = cells.into_iter().collect();
        assert_eq!(cells.len(), self.columns.len(), "{}: cells of a row", self.title);
        self.rows.push(cells);
    }

    /// Adds a sentence below it.
    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }
}

/// A chart.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Chart {
    /// What it shows.
    pub title: String,
    /// What kind it is.
    pub kind: Kind,
    /// From left to right. Of [`Kind::Dots`]: what is measured.
    pub x: Axis,
    /// From bottom to top. Of [`Kind::Dots`]: what the categories are.
    pub y: Axis,
    /// At most eight: that many can be told apart without colours.
    pub series: Vec<Series>,
    /// Of [`Kind::Dots`]: names of the rows, from the top.
    pub categories: Vec<String>,
    /// Sentences below it.
    pub notes: Vec<String>,
}

/// Kinds of charts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Points joined by lines, in the order of their x.
    Lines,
    /// Points alone: one quantity against another.
    Scatter,
    /// A row for each category, a dot for each series: x is the value, y the
    /// category's number. Honest on a log scale, where a bar's length isn't.
    Dots,
}

/// An axis.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Axis {
    /// What it measures.
    pub label: String,
    /// In which unit; empty for none.
    pub unit: String,
    /// Whether equal steps are equal factors: where decades are crossed.
    pub log: bool,
}

impl Axis {
    /// From zero on.
    pub fn linear(label: &str, unit: &str) -> Self {
        Self { label: label.into(), unit: unit.into(), log: false }
    }

    /// Values must be above zero; others aren't drawn.
    pub fn log(label: &str, unit: &str) -> Self {
        Self { label: label.into(), unit: unit.into(), log: true }
    }
}

/// What belongs together in a chart.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Series {
    /// Its name.
    pub name: String,
    /// Its points.
    pub points: Vec<Point>,
}

/// A point, with what is written beside it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Point {
    /// In the unit of the x axis.
    pub x: f64,
    /// In the unit of the y axis.
    pub y: f64,
    /// Least and most of the measured value.
    pub spread: Option<(f64, f64)>,
    /// A word beside it.
    pub label: Option<String>,
}

impl From<(f64, f64)> for Point {
    fn from((x, y): (f64, f64)) -> Self {
        Self { x, y, spread: None, label: None }
    }
}

impl From<(f64, Spread)> for Point {
    fn from((x, y): (f64, Spread)) -> Self {
        Self { x, y: y.median, spread: Some((y.least, y.most)), label: None }
    }
}

impl From<(f64, f64, &str)> for Point {
    fn from((x, y, label): (f64, f64, &str)) -> Self {
        Self { x, y, spread: None, label: Some(label.into()) }
    }
}

impl Chart {
    /// A chart of lines.
    pub fn new(title: &str, x: Axis, y: Axis) -> Self {
        Self {
            title: title.into(),
            kind: Kind::Lines,
            x,
            y,
            series: Vec::new(),
            categories: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// A chart of points alone.
    pub fn scatter(title: &str, x: Axis, y: Axis) -> Self {
        Self { kind: Kind::Scatter, ..Self::new(title, x, y) }
    }

    /// A chart of rows of dots.
    pub fn dots(title: &str, x: Axis, categories: &[&str]) -> Self {
        Self {
            kind: Kind::Dots,
            categories: categories.iter().map(ToString::to_string).collect(),
            ..Self::new(title, x, Axis::linear("", ""))
        }
    }

    /// Adds points of one kind.
    pub fn series<P: Into<Point>>(&mut self, name: &str, points: impl IntoIterator<Item = P>) {
        let points = points.into_iter().map(Into::into).collect();
        self.series.push(Series { name: name.into(), points });
    }

    /// To a chart of dots: the values of one series, from the first category
    /// on; `None` leaves one out.
    pub fn dots_of(&mut self, name: &str, values: impl IntoIterator<Item = Option<Spread>>) {
        let points = values.into_iter().enumerate().filter_map(|(row, v)| {
            let v = v?;
            Some(Point { x: v.median, y: row as f64, spread: Some((v.least, v.most)), label: None })
        });
        self.series.push(Series { name: name.into(), points: points.collect() });
    }

    /// Adds a sentence below it.
    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }
}

/// The machine and the program's version. What isn't known is empty.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Place {
    /// Seconds since 1970.
    pub unix_seconds: u64,
    /// Model and number of processors that may be used.
    pub cpu: String,
    /// Bytes of memory.
    pub memory: u64,
    /// Operating system and its version.
    pub system: String,
    /// The compiler.
    pub rustc: String,
    /// The commit, with `+` where files have been changed since.
    pub commit: String,
}

impl Place {
    /// This machine, now.
    fn here() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let commit = output("git", &["rev-parse", "--short=12", "HEAD"]);
        let changed = output("git", &["status", "--porcelain", "--untracked-files=no"]);
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            unix_seconds: now.map_or(0, |t| t.as_secs()),
            cpu: format!("{}, {cpus} processors", value("/proc/cpuinfo", "model name")),
            memory: value("/proc/meminfo", "MemTotal")
                .split(' ')
                .next()
                .and_then(|kib| kib.parse::<u64>().ok())
                .map_or(0, |kib| kib * 1024),
            system: output("uname", &["-srm"]),
            rustc: output("rustc", &["--version"]),
            commit: if changed.is_empty() { commit } else { format!("{commit}+") },
        }
    }
}

/// What a program prints; nothing where it can't be run.
pub fn output(program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    out.map_or_else(|_| String::new(), |o| String::from_utf8_lossy(&o.stdout).trim().into())
}

/// The first value of `key` in a file of lines `key : value`.
fn value(file: &str, key: &str) -> String {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let mut lines = text.lines().filter_map(|l| l.split_once(':'));
    lines.find(|(k, _)| k.trim() == key).map_or_else(String::new, |(_, v)| v.trim().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_back_as_it_was_saved() {
        let mut table = Table::new("t", &[("what", ""), ("time", "ns"), ("ratio", "")]);
        let spread = Spread::of(vec![3.0, 1.0, 2.0]);
        assert_eq!((spread.least, spread.median, spread.most), (1.0, 2.0, 3.0));
        table.row(["a".into(), spread.into(), 0.5.into()]);
        table.row([Cell::from(None::<f64>), f64::NAN.into(), 1e-9.into()]);
        let mut chart = Chart::dots("c", Axis::log("time", "ns"), &["one", "two"]);
        chart.dots_of("a", [None, Some(spread)]);
        let record = Record::new("test", "Test", "true").table(table).chart(chart);
        let json = serde_json::to_string(&record).unwrap();
        let back: Record = serde_json::from_str(&json).unwrap();
        assert_eq!(back.tables[0].rows, record.tables[0].rows);
        assert_eq!(back.tables[0].rows[1][1], Cell::Nothing);
        assert_eq!(back.charts[0].series[0].points[0].y.to_bits(), 1f64.to_bits());
        assert_eq!(back.place, record.place);
    }
}
