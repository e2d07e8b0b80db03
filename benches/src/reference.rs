//! Published timings that the benches are set beside.

use serde::Deserialize;

/// `reference/r302976.toml`.
const R302976: &str = include_str!("../reference/r302976.toml");

/// A set of published figures.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    /// Where they were published.
    pub source: String,
    /// What was measured.
    pub dump: String,
    /// One figure for either table each.
    pub measure: Vec<Measure>,
}

/// One published figure for libkvm's old and new lookup.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measure {
    /// What was measured.
    pub name: String,
    /// Unit of both figures: `s`, or `MB` of 10^6 or 2^20 bytes, which the
    /// source doesn't say.
    pub unit: String,
    /// The hash table's.
    pub hash: f64,
    /// The population counts'.
    pub popcount: f64,
}

impl Measure {
    /// How many times less the population counts need.
    pub fn ratio(&self) -> f64 {
        self.hash / self.popcount
    }
}

/// libkvm's change of 2016, measured by its author.
pub fn r302976() -> Result<Reference, toml::de::Error> {
    toml::from_str(R302976)
}

#[cfg(test)]
mod tests {
    #[test]
    fn ratios_as_published() {
        let reference = super::r302976().unwrap();
        let ratios: Vec<_> = reference.measure.iter().map(super::Measure::ratio).collect();
        let published = [4.64, 12.9, 2.0, 1.39, 2.30, 10.7];
        assert_eq!(ratios.len(), published.len());
        for (ratio, published) in ratios.iter().zip(published) {
            assert!((ratio / published - 1.0).abs() < 0.005, "{ratio} for {published}");
        }
    }
}
