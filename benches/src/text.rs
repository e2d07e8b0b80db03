//! Records as text for a terminal.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, presets::UTF8_FULL_CONDENSED};

use crate::record::{Cell, Record, Table};

/// A record's tables, with its heading and notes; charts are left to the
/// report.
pub fn of(record: &Record) -> String {
    let mut out = format!("\n{}\n{}\n", record.title, "=".repeat(record.title.chars().count()));
    for paragraph in &record.about {
        let _ = writeln!(out, "{paragraph}");
    }
    let _ = writeln!(out, "$ {}", record.command);
    for table in &record.tables {
        let _ = writeln!(out, "\n{}\n{}", table.title, drawn(table));
        for note in &table.notes {
            let _ = writeln!(out, "  {note}");
        }
    }
    out
}

fn drawn(table: &Table) -> comfy_table::Table {
    let mut drawn = comfy_table::Table::new();
    drawn.load_style(UTF8_FULL_CONDENSED);
    drawn.set_header(table.columns.iter().map(head));
    for row in &table.rows {
        drawn.add_row(row.iter().map(cell));
    }
    for (i, column) in drawn.column_iter_mut().enumerate() {
        let words = table.rows.iter().all(|row| matches!(row[i], Cell::Text(_)));
        column.set_cell_alignment(if words { CellAlignment::Left } else { CellAlignment::Right });
    }
    drawn
}

/// Name and unit of a column.
pub fn head(column: &crate::record::Column) -> String {
    if column.unit.is_empty() {
        column.name.clone()
    } else {
        format!("{}, {}", column.name, column.unit)
    }
}

/// A cell in one line: a spread as `median (least-most)`.
pub fn cell(cell: &Cell) -> String {
    match cell {
        Cell::Text(text) => text.clone(),
        Cell::Number(n) => number(*n),
        Cell::Spread(s) if s.least.to_bits() == s.most.to_bits() => number(s.median),
        Cell::Spread(s) => {
            format!("{} ({}-{})", number(s.median), number(s.least), number(s.most))
        }
        Cell::Nothing => "–".into(),
    }
}

/// Three significant digits, or all before the point, in groups of three.
pub fn number(n: f64) -> String {
    let size = n.abs();
    if size >= 1000.0 {
        let digits = format!("{size:.0}");
        let mut out = String::from(if n < 0.0 { "-" } else { "" });
        for (i, digit) in digits.chars().enumerate() {
            if i > 0 && (digits.len() - i).is_multiple_of(3) {
                out.push(',');
            }
            out.push(digit);
        }
        return out;
    }
    if n == 0.0 {
        return "0".into();
    }
    let decimals = match size {
        100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        0.1.. => 3,
        0.01.. => 4,
        _ => return format!("{n:.2e}"),
    };
    format!("{n:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (n, text) in [
            (0.0, "0"),
            (1234567.4, "1,234,567"),
            (-1000.0, "-1,000"),
            (999.4, "999"),
            (35.04, "35.0"),
            (1.0, "1.00"),
            (0.351, "0.351"),
            (0.00123, "1.23e-3"),
        ] {
            assert_eq!(number(n), text);
        }
    }
}
