//! Tables as CSV (RFC 4180).

use vmcask_benches::record::{Cell, Table};

/// A table; a column of spreads becomes three.
pub fn of(table: &Table) -> String {
    let spreads: Vec<bool> = (0..table.columns.len())
        .map(|i| table.rows.iter().any(|row| matches!(row[i], Cell::Spread(_))))
        .collect();
    let mut lines = Vec::new();
    let mut head = Vec::new();
    for (column, &spread) in table.columns.iter().zip(&spreads) {
        let name = vmcask_benches::text::head(column);
        head.push(field(&name));
        if spread {
            head.extend(["least", "most"].map(|which| field(&format!("{name}, {which}"))));
        }
    }
    lines.push(head.join(","));
    for row in &table.rows {
        let mut fields = Vec::new();
        for (cell, &spread) in row.iter().zip(&spreads) {
            match cell {
                Cell::Spread(s) => {
                    fields.extend([s.median, s.least, s.most].map(|n| n.to_string()));
                    continue;
                }
                Cell::Number(n) => fields.push(n.to_string()),
                Cell::Text(text) => fields.push(field(text)),
                Cell::Nothing => fields.push(String::new()),
            }
            if spread {
                fields.extend([String::new(), String::new()]);
            }
        }
        lines.push(fields.join(","));
    }
    lines.join("\r\n") + "\r\n"
}

fn field(text: &str) -> String {
    if text.contains(['"', ',', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.into()
    }
}

/// A title as a part of a file's name.
pub fn slug(title: &str) -> String {
    let words = title.to_lowercase();
    let words = words.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| !w.is_empty());
    words.take(8).collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmcask_benches::record::Spread;

    #[test]
    fn spreads_become_three_columns() {
        let mut table = Table::new("t", &[("what", ""), ("time", "ns")]);
        table.row(["a \"b\", c".into(), Spread { median: 2.0, least: 1.0, most: 3.5 }.into()]);
        table.row(["d".into(), Cell::Nothing]);
        let csv = of(&table);
        let want = "what,\"time, ns\",\"time, ns, least\",\"time, ns, most\"\r\n\
                    \"a \"\"b\"\", c\",2,1,3.5\r\nd,,,\r\n";
        assert_eq!(csv, want);
        assert_eq!(slug("Lookups: 8 GiB of 128 GiB"), "lookups-8-gib-of-128-gib");
    }
}
