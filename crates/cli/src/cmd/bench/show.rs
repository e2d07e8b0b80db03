//! The report as tables.

use std::io::{self, Write};

use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};
use vmcask_measure::Spread;

use super::{Report, WorkloadRow};
use crate::size::{count, human};

pub fn print(report: &Report, out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "{}: {} of {} pages dumped; medians of {} passes in turn\n",
        report.file,
        count(report.dumped_pages),
        count(report.machine_pages),
        report.passes
    )?;
    let mut table = new(&["lookup", "dependent", "independent", "half absent", "built", "memory"]);
    for row in &report.lookups {
        table.add_row([
            row.lookup.clone(),
            ns(row.dependent_nanoseconds),
            ns(row.independent_nanoseconds),
            ns(row.half_absent_dependent_nanoseconds),
            format!("{:.1} ms", row.build_milliseconds.median),
            human(row.memory_bytes),
        ]);
        if let Some(batched) = row.batched_nanoseconds {
            let name = format!("{}, batched", row.lookup);
            table.add_row([name, String::new(), ns(batched)]);
        }
    }
    writeln!(out, "{table}\n")?;

    let mut table = new(&[
        "workload", "reading", "lookup", "wall", "user", "sys", "max RSS", "table", "opens",
        "lookups", "wall, x",
    ]);
    for row in &report.workloads {
        let same = |r: &&WorkloadRow| r.workload == row.workload && r.reading == row.reading;
        let first = report.workloads.iter().find(same).unwrap_or(row);
        table.add_row([
            row.workload.clone(),
            row.reading.into(),
            row.lookup.into(),
            seconds(row.wall_seconds),
            seconds(row.user_seconds),
            seconds(row.sys_seconds),
            human(row.max_rss_bytes),
            human(row.lookup_bytes),
            row.opens.to_string(),
            count(row.lookups),
            format!("{:.2}", first.wall_seconds.median / row.wall_seconds.median),
        ]);
    }
    writeln!(out, "{table}")?;
    writeln!(
        out,
        "x: how many times less than the first lookup of the same workload and reading. What the\n\
         tools of crashinfo read is a model (README); every run is a process of its own."
    )
}

fn new(head: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(head.to_vec());
    for (i, column) in table.column_iter_mut().enumerate() {
        if !["workload", "reading", "lookup"].contains(&head[i]) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn ns(s: Spread) -> String {
    let digits = |v: f64| if v < 100.0 { format!("{v:.1}") } else { count(v.round() as u64) };
    format!("{} ns ({}-{})", digits(s.median), digits(s.least), digits(s.most))
}

fn seconds(s: Spread) -> String {
    format!("{:.3} s", s.median)
}
