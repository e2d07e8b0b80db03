//! The report: one file, nothing loaded from anywhere.

use std::fmt::Write as _;

use vmcask_benches::record::{Cell, Place, Record, Table};
use vmcask_benches::text::{cell, head};

use crate::{date, svg};

const STYLE: &str = "
body { font: 15px/1.45 sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; color: #111; background: #fff }
h1 { font-size: 1.7rem } h2 { margin-top: 3rem; border-bottom: 1px solid #999 } h3 { margin: 1.8rem 0 .5rem }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th { text-align: left; vertical-align: bottom; border-bottom: 2px solid #444; font-weight: 600 }
th, td { padding: .2rem .8rem .2rem 0 } td { border-bottom: 1px solid #ddd; vertical-align: top }
td.n, th.n { text-align: right } td.n { white-space: nowrap } td small { color: #555; display: block }
.notes { color: #333; font-size: .92em } .place { color: #444; font-size: .9em }
svg { max-width: 100%; height: auto; display: block; margin: .5rem 0 }
code { background: #f2f2f2; padding: .1rem .3rem }
nav li { margin: .1rem 0 }
@media print { body { margin: 0; max-width: none } h2 { break-before: page } svg, tr { break-inside: avoid } }
";

/// Characters that mean something in HTML and in SVG.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// All records on one page.
pub fn page(records: &[Record]) -> String {
    let mut out = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <title>vmcask: measured</title><style>{STYLE}</style></head><body>\
         <h1>vmcask: what was measured</h1>"
    );
    let common = records.first().map(|r| &r.place);
    if let Some(place) = common {
        place_line(&mut out, place);
    }
    out.push_str(
        "<p>Medians of repeated passes that ran in turn, with the least and the most of them; \
         ratios are of things measured in one run.</p><nav><ul>",
    );
    for r in records {
        let _ = write!(out, "<li><a href=\"#{}\">{}</a></li>", escape(&r.name), escape(&r.title));
    }
    out.push_str("</ul></nav>");
    for r in records {
        let _ = write!(out, "<h2 id=\"{}\">{}</h2>", escape(&r.name), escape(&r.title));
        for paragraph in &r.about {
            let _ = write!(out, "<p>{}</p>", escape(paragraph));
        }
        let _ = write!(out, "<p><code>{}</code></p>", escape(&r.command));
        if common.is_some_and(|c| !same(c, &r.place)) {
            place_line(&mut out, &r.place);
        }
        for t in &r.tables {
            table(&mut out, t);
        }
        for c in &r.charts {
            let _ = write!(out, "<h3>{}</h3>{}", escape(&c.title), svg::draw(c));
            notes(&mut out, &c.notes);
        }
    }
    out.push_str("</body></html>\n");
    out
}

/// But for the time.
fn same(a: &Place, b: &Place) -> bool {
    *a == Place { unix_seconds: a.unix_seconds, ..b.clone() }
}

fn place_line(out: &mut String, p: &Place) {
    let _ = write!(
        out,
        "<p class=\"place\">{}; {}, {:.0} GiB of memory; {}; {}; commit {}</p>",
        date(p.unix_seconds),
        escape(&p.cpu),
        p.memory as f64 / f64::from(1 << 30),
        escape(&p.system),
        escape(&p.rustc),
        escape(&p.commit)
    );
}

fn notes(out: &mut String, notes: &[String]) {
    for note in notes {
        let _ = write!(out, "<p class=\"notes\">{}</p>", escape(note));
    }
}

fn table(out: &mut String, t: &Table) {
    let words: Vec<bool> = (0..t.columns.len())
        .map(|i| t.rows.iter().all(|row| matches!(row[i], Cell::Text(_))))
        .collect();
    let class = |i: usize| if words[i] { "" } else { " class=\"n\"" };
    let _ = write!(out, "<h3>{}</h3><div class=\"scroll\"><table><thead><tr>", escape(&t.title));
    for (i, column) in t.columns.iter().enumerate() {
        let _ = write!(out, "<th{}>{}</th>", class(i), escape(&head(column)));
    }
    out.push_str("</tr></thead><tbody>");
    for row in &t.rows {
        out.push_str("<tr>");
        for (i, value) in row.iter().enumerate() {
            let text = escape(&cell(value));
            // The spread below its median.
            let text = match (value, text.split_once(" (")) {
                (Cell::Spread(_), Some((median, spread))) => {
                    format!("{median}<small>{}</small>", spread.trim_end_matches(')'))
                }
                _ => text,
            };
            let _ = write!(out, "<td{}>{text}</td>", class(i));
        }
        out.push_str("</tr>");
    }
    out.push_str("</tbody></table></div>");
    notes(out, &t.notes);
}
