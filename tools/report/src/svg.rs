//! Charts as inline SVG. Series differ in marker, dash and shade as well as
//! in colour, so that they can be told apart in black and white.

use std::fmt::Write as _;

use vmcask_benches::record::{Axis, Chart, Kind, Point};
use vmcask_benches::text::number;

use crate::html::escape;

/// Colours of descending darkness (Okabe and Ito's set for colour-blind
/// readers, ordered by luminance), dashes and markers by series.
const STYLES: [(&str, &str, Marker); 8] = [
    ("#000000", "", Marker::Circle),
    ("#0072b2", "7 3", Marker::Square),
    ("#d55e00", "2 3", Marker::Triangle),
    ("#009e73", "9 3 2 3", Marker::Diamond),
    ("#cc79a7", "", Marker::OpenCircle),
    ("#56b4e9", "7 3", Marker::OpenSquare),
    ("#a06a00", "2 3", Marker::Cross),
    ("#777777", "9 3 2 3", Marker::Plus),
];

#[derive(Clone, Copy)]
enum Marker {
    Circle,
    Square,
    Triangle,
    Diamond,
    OpenCircle,
    OpenSquare,
    Cross,
    Plus,
}

const WIDTH: f64 = 860.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 14.0;
/// Of a chart of lines, without legend.
const PLOT_HEIGHT: f64 = 340.0;
/// Of a row of dots.
const ROW: f64 = 26.0;
/// Below the plot: ticks and label.
const BOTTOM: f64 = 46.0;
const LEGEND_LINE: f64 = 20.0;
/// Rough width of a character at 12 px.
const CHAR: f64 = 6.6;

/// A linear or logarithmic way from values to pixels.
struct Scale {
    log: bool,
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    ticks: Vec<f64>,
}

impl Scale {
    /// Linear ones begin at 0, unless it is where points lie that counts, not how
    /// long something is.
    fn new(
        chart: &Chart,
        axis: &Axis,
        values: impl Iterator<Item = f64>,
        from: f64,
        to: f64,
    ) -> Self {
        let start = if chart.kind == Kind::Scatter { f64::INFINITY } else { 0.0 };
        let drawn = values.filter(|v| v.is_finite() && (!axis.log || *v > 0.0));
        let (low, high) = drawn
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)));
        let (low, high) = if low > high { (1.0, 10.0) } else { (low, high) };
        let (low, high, ticks) =
            if axis.log { log_ticks(low, high) } else { linear_ticks(low.min(start), high) };
        Self { log: axis.log, low, high, from, to, ticks }
    }

    fn at(&self, v: f64) -> f64 {
        let part = if self.log {
            (v.max(self.low) / self.low).ln() / (self.high / self.low).ln()
        } else {
            (v - self.low) / (self.high - self.low)
        };
        self.from + part * (self.to - self.from)
    }
}

/// Steps of 1, 2 or 5 times a power of ten, about six of them.
fn linear_ticks(low: f64, high: f64) -> (f64, f64, Vec<f64>) {
    let high = if high > low { high } else { low + 1.0 };
    let rough = (high - low) / 6.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|s| s * power).into_iter().find(|s| *s >= rough);
    let step = step.unwrap_or(rough);
    let (first, last) = ((low / step).floor(), (high / step).ceil());
    let ticks = (0..=(last - first) as u32).map(|i| (first + f64::from(i)) * step).collect();
    (first * step, last * step, ticks)
}

/// Decades; with 2 and 5 between them where there are few.
fn log_ticks(low: f64, high: f64) -> (f64, f64, Vec<f64>) {
    let decades = (high / low).log10();
    let steps: &[f64] = if decades > 3.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
    let first = low.log10().floor() as i32;
    let last = high.log10().ceil() as i32;
    let all: Vec<f64> =
        (first..=last).flat_map(|d| steps.iter().map(move |s| s * 10f64.powi(d))).collect();
    // The ticks around the values: nothing is drawn outside the axes.
    let start = all.iter().rposition(|t| *t <= low * 1.000_001).unwrap_or(0);
    let end = all.iter().position(|t| *t >= high * 0.999_999).unwrap_or(all.len() - 1);
    let end = end.max(start + 1).min(all.len() - 1);
    (all[start], all[end], all[start..=end].to_vec())
}

fn tick_text(v: f64) -> String {
    if v == 0.0 {
        "0".into()
    } else if v.abs() >= 1000.0 {
        number(v)
    } else {
        let text = format!("{v:.6}");
        text.trim_end_matches('0').trim_end_matches('.').into()
    }
}

fn axis_text(axis: &Axis) -> String {
    let scale = if axis.log { ", log scale" } else { "" };
    match axis.unit.as_str() {
        "" => format!("{}{scale}", axis.label),
        unit => format!("{} ({unit}{scale})", axis.label),
    }
}

/// One chart.
pub fn draw(chart: &Chart) -> String {
    match chart.kind {
        Kind::Lines | Kind::Scatter => plane(chart),
        Kind::Dots => dots(chart),
    }
}

fn open(out: &mut String, chart: &Chart, height: f64) {
    let _ = write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" role=\"img\" \
         font-family=\"sans-serif\" font-size=\"12\"><title>{}</title>\
         <rect width=\"{WIDTH}\" height=\"{height:.0}\" fill=\"#fff\"/>",
        escape(&chart.title)
    );
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, extra: &str, words: &str) {
    let _ = write!(
        out,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\"{extra}>{}</text>",
        escape(words)
    );
}

fn line(out: &mut String, from: (f64, f64), to: (f64, f64), stroke: &str) {
    let _ = write!(
        out,
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" {stroke}/>",
        from.0, from.1, to.0, to.1
    );
}

const GRID: &str = "stroke=\"#ddd\"";
const AXIS: &str = "stroke=\"#000\"";

fn x_axis(out: &mut String, chart: &Chart, x: &Scale, top: f64, bottom: f64) {
    for &tick in &x.ticks {
        let at = x.at(tick);
        line(out, (at, top), (at, bottom), GRID);
        line(out, (at, bottom), (at, bottom + 4.0), AXIS);
        text(out, at, bottom + 17.0, "middle", "", &tick_text(tick));
    }
    line(out, (x.from, bottom), (x.to, bottom), AXIS);
    text(out, f64::midpoint(x.from, x.to), bottom + 37.0, "middle", "", &axis_text(&chart.x));
}

/// Lines of names beside their markers, and how much height they take.
fn legend(chart: &Chart, left: f64, top: f64) -> (String, f64) {
    let mut out = String::new();
    if chart.series.len() < 2 {
        return (out, 0.0);
    }
    let (mut x, mut y) = (left, top + 8.0);
    for (i, series) in chart.series.iter().enumerate() {
        let width = 48.0 + series.name.chars().count() as f64 * CHAR;
        if x + width > WIDTH - RIGHT && x > left {
            (x, y) = (left, y + LEGEND_LINE);
        }
        let (colour, dash, shape) = STYLES[i % STYLES.len()];
        if chart.kind == Kind::Lines {
            let stroke =
                format!("stroke=\"{colour}\" stroke-width=\"2\" stroke-dasharray=\"{dash}\"");
            line(&mut out, (x, y), (x + 28.0, y), &stroke);
        }
        marker(&mut out, shape, colour, x + 14.0, y);
        text(&mut out, x + 34.0, y + 4.0, "start", "", &series.name);
        x += width;
    }
    (out, y + LEGEND_LINE - top)
}

fn marker(out: &mut String, shape: Marker, colour: &str, x: f64, y: f64) {
    let (solid, open) = (
        format!("fill=\"{colour}\""),
        format!("fill=\"#fff\" stroke=\"{colour}\" stroke-width=\"1.8\""),
    );
    let path = |d: String, style: &str| format!("<path d=\"{d}\" {style}/>");
    let square = format!("M{:.1} {:.1}h8v8h-8z", x - 4.0, y - 4.0);
    let stroke = format!("fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"");
    let drawn = match shape {
        Marker::Circle => format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4.4\" {solid}/>"),
        Marker::OpenCircle => format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4.2\" {open}/>"),
        Marker::Square => path(square, &solid),
        Marker::OpenSquare => path(square, &open),
        Marker::Triangle => path(format!("M{x:.1} {:.1}l5.2 9h-10.4z", y - 5.5), &solid),
        Marker::Diamond => {
            path(format!("M{x:.1} {:.1}l5.4 5.4l-5.4 5.4l-5.4 -5.4z", y - 5.4), &solid)
        }
        Marker::Cross => {
            let (x, y) = (x - 4.0, y - 4.0);
            path(format!("M{x:.1} {y:.1}l8 8M{x:.1} {:.1}l8 -8", y + 8.0), &stroke)
        }
        Marker::Plus => {
            path(format!("M{:.1} {y:.1}h10M{x:.1} {:.1}v10", x - 5.0, y - 5.0), &stroke)
        }
    };
    out.push_str(&drawn);
}

fn drawable(chart: &Chart, p: &Point) -> bool {
    let ok = |axis: &Axis, v: f64| v.is_finite() && (!axis.log || v > 0.0);
    ok(&chart.x, p.x) && ok(&chart.y, p.y)
}

fn spread_of(p: &Point, value: f64) -> [f64; 3] {
    let (least, most) = p.spread.unwrap_or((value, value));
    [value, least, most]
}

fn plane(chart: &Chart) -> String {
    let left = 84.0;
    let (legend, legend_height) = legend(chart, left, TOP);
    let top = TOP + legend_height;
    let bottom = top + PLOT_HEIGHT;
    let points = || chart.series.iter().flat_map(|s| &s.points).filter(|p| drawable(chart, p));
    let x = Scale::new(chart, &chart.x, points().map(|p| p.x), left, WIDTH - RIGHT);
    let y = Scale::new(chart, &chart.y, points().flat_map(|p| spread_of(p, p.y)), bottom, top);

    let mut out = String::new();
    open(&mut out, chart, bottom + BOTTOM);
    out.push_str(&legend);
    for &tick in &y.ticks {
        let at = y.at(tick);
        line(&mut out, (left, at), (WIDTH - RIGHT, at), GRID);
        line(&mut out, (left - 4.0, at), (left, at), AXIS);
        text(&mut out, left - 8.0, at + 4.0, "end", "", &tick_text(tick));
    }
    x_axis(&mut out, chart, &x, top, bottom);
    line(&mut out, (left, top), (left, bottom), AXIS);
    let middle = f64::midpoint(top, bottom);
    let turned = format!(" transform=\"rotate(-90 18 {middle:.1})\"");
    text(&mut out, 18.0, middle, "middle", &turned, &axis_text(&chart.y));

    for (i, series) in chart.series.iter().enumerate() {
        let (colour, dash, shape) = STYLES[i % STYLES.len()];
        let shown: Vec<&Point> = series.points.iter().filter(|p| drawable(chart, p)).collect();
        if chart.kind == Kind::Lines {
            let way: Vec<_> =
                shown.iter().map(|p| format!("{:.1},{:.1}", x.at(p.x), y.at(p.y))).collect();
            let _ = write!(
                out,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" \
                 stroke-dasharray=\"{dash}\"/>",
                way.join(" ")
            );
        }
        for p in shown {
            let (px, py) = (x.at(p.x), y.at(p.y));
            if let Some((least, most)) = p.spread {
                let stroke = format!("stroke=\"{colour}\"");
                line(&mut out, (px, y.at(least)), (px, y.at(most)), &stroke);
            }
            marker(&mut out, shape, colour, px, py);
            if let Some(label) = &p.label {
                // On the side that has room.
                let (dx, anchor) = if px > WIDTH * 0.8 { (-8.0, "end") } else { (8.0, "start") };
                text(&mut out, px + dx, py - 5.0, anchor, " font-size=\"11\"", label);
            }
        }
    }
    out.push_str("</svg>");
    out
}

fn dots(chart: &Chart) -> String {
    let longest = chart.categories.iter().map(|c| c.chars().count()).max().unwrap_or(0);
    let left = (longest as f64 * CHAR + 20.0).clamp(84.0, 360.0);
    let (legend, legend_height) = legend(chart, left, TOP);
    let top = TOP + legend_height;
    let bottom = top + ROW * chart.categories.len() as f64;
    let points = || chart.series.iter().flat_map(|s| &s.points).filter(|p| drawable(chart, p));
    let x =
        Scale::new(chart, &chart.x, points().flat_map(|p| spread_of(p, p.x)), left, WIDTH - RIGHT);
    let row = |n: f64| top + ROW * (n + 0.5);

    let mut out = String::new();
    open(&mut out, chart, bottom + BOTTOM);
    out.push_str(&legend);
    x_axis(&mut out, chart, &x, top, bottom);
    for (i, name) in chart.categories.iter().enumerate() {
        let at = row(i as f64);
        line(&mut out, (left, at), (WIDTH - RIGHT, at), "stroke=\"#bbb\" stroke-dasharray=\"1 3\"");
        text(&mut out, left - 8.0, at + 4.0, "end", "", name);
    }
    line(&mut out, (left, top), (left, bottom), AXIS);
    for (i, series) in chart.series.iter().enumerate() {
        let (colour, _, shape) = STYLES[i % STYLES.len()];
        for p in series.points.iter().filter(|p| drawable(chart, p)) {
            let at = row(p.y);
            if let Some((least, most)) = p.spread {
                let stroke = format!("stroke=\"{colour}\"");
                line(&mut out, (x.at(least), at), (x.at(most), at), &stroke);
            }
            marker(&mut out, shape, colour, x.at(p.x), at);
            if let Some(label) = &p.label {
                text(&mut out, x.at(p.x) + 8.0, at - 5.0, "start", " font-size=\"11\"", label);
            }
        }
    }
    out.push_str("</svg>");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_hold_the_values() {
        for (low, high) in [(1.0, 512.0), (0.3, 0.4), (2.0, 721_000.0), (5.0, 5.0), (0.001, 3e7)] {
            let (first, last, ticks) = log_ticks(low, high);
            assert!(first <= low && last >= high && first < last, "{low} {high}: {ticks:?}");
            assert!((2..14).contains(&ticks.len()), "{ticks:?}");
            let (first, last, ticks) = linear_ticks(0.0, high);
            assert!(first <= 0.0 && last >= high && (2..10).contains(&ticks.len()), "{ticks:?}");
        }
    }

    #[test]
    fn what_has_no_logarithm_is_left_out() {
        let mut chart = Chart::new("<t>", Axis::log("x", "GiB"), Axis::log("y", "ns"));
        chart.series("a & b", [(1.0, 0.0), (2.0, 10.0), (f64::NAN, 3.0)]);
        let svg = draw(&chart);
        assert_eq!(svg.matches("<circle").count(), 1);
        assert!(svg.contains("&lt;t&gt;") && !svg.contains("NaN") && !svg.contains("inf"));
        assert!(svg.contains("x (GiB, log scale)"));
    }
}
