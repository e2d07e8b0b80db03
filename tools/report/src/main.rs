//! Gathers what the benches left in `target/bench/*.json` into one page with
//! charts, and prints the tables. `--keep` writes them as CSV, for
//! `benches/record/`.

#![forbid(unsafe_code)]

mod csv;
mod html;
mod svg;

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Parser;
use vmcask_benches::record::{self, Record};
use vmcask_benches::text;

/// Records by name in the order of the report; others follow by name.
const ORDER: [&str; 7] =
    ["reference", "targets", "lookup", "baselines", "scaling", "workloads", "archive"];

#[derive(Parser)]
#[command(about = "Gathers what the benches measured into target/bench/report.html")]
struct Args {
    /// Where the records are [default: target/bench]
    #[arg(long, value_name = "DIR")]
    records: Option<PathBuf>,

    /// Write each table as CSV into this folder, too
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,

    /// Print no tables
    #[arg(short, long)]
    quiet: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let dir = args.records.unwrap_or_else(record::dir);
    let records = records(&dir)?;
    if records.is_empty() {
        bail!("{}: no records; run a bench first (`just bench`)", dir.display());
    }
    if !args.quiet {
        let all: String = records.iter().map(text::of).collect();
        // Whoever reads this may have read enough.
        let _ = std::io::stdout().write_all(all.as_bytes());
    }
    let page = dir.join("report.html");
    write(&page, &html::page(&records))?;
    if let Some(keep) = &args.keep {
        std::fs::create_dir_all(keep).with_context(|| keep.display().to_string())?;
        for r in &records {
            for table in &r.tables {
                let name = format!("{}.{}.csv", r.name, csv::slug(&table.title));
                write(&keep.join(name), &csv::of(table))?;
            }
        }
        write(&keep.join("README.md"), &readme(&records))?;
    }
    println!("\n{}", page.display());
    Ok(())
}

fn records(dir: &Path) -> Result<Vec<Record>> {
    let files = std::fs::read_dir(dir).with_context(|| dir.display().to_string())?;
    let mut records = Vec::new();
    for file in files {
        let path = file?.path();
        if path.extension().is_some_and(|e| e == "json") {
            records.push(Record::read(&path).with_context(|| path.display().to_string())?);
        }
    }
    records.sort_by_cached_key(|r| {
        (ORDER.iter().position(|n| *n == r.name).unwrap_or(ORDER.len()), r.name.clone())
    });
    Ok(records)
}

/// Where and by what the CSV beside it was measured.
fn readme(records: &[Record]) -> String {
    use std::fmt::Write as _;
    let mut out =
        String::from("Each CSV is a table of the report (`cargo run -p vmcask-report`).\n\n");
    out.push_str(
        "| record | command | when | machine | commit | compiler |\n|---|---|---|---|---|---|\n",
    );
    for r in records {
        let p = &r.place;
        let _ = writeln!(
            out,
            "| {} | `{}` | {} | {}; {:.0} GiB; {} | {} | {} |",
            r.name,
            r.command,
            date(p.unix_seconds),
            p.cpu,
            p.memory as f64 / f64::from(1 << 30),
            p.system,
            p.commit,
            p.rustc
        );
    }
    out
}

/// In UTC.
fn date(unix_seconds: u64) -> String {
    let seconds = i64::try_from(unix_seconds).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds)
        .map_or_else(|_| String::new(), |t| t.strftime("%Y-%m-%d %H:%M UTC").to_string())
}

/// Whole or not at all.
fn write(path: &Path, text: &str) -> Result<()> {
    let name = || path.display().to_string();
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(dir)
        .with_context(name)?;
    file.write_all(text.as_bytes()).with_context(name)?;
    file.as_file().sync_all().with_context(name)?;
    file.persist(path).with_context(name)?;
    Ok(())
}
