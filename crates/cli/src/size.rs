//! Sizes and addresses as people write and read them.

/// Parses `4`, `64K`, `8GiB`, `0x1000`. Units are binary, with or without
/// the `iB`.
pub fn number(text: &str) -> Result<u64, String> {
    let hex = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    if let Some(digits) = hex {
        return u64::from_str_radix(&digits.replace('_', ""), 16)
            .map_err(|_| "not a hexadecimal number of at most 64 bits".to_owned());
    }
    parse_size::Config::new()
        .with_binary()
        .parse_size(text)
        .map_err(|_| "not a size: write it like 4096, 64K, 8GiB or 0x1000".to_owned())
}

/// `97.0 MiB`.
pub fn human(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// `24,144`.
pub fn count(n: u64) -> String {
    indicatif::HumanCount(n).to_string()
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn sizes() {
        assert_eq!(number("4"), Ok(4));
        assert_eq!(number("64K"), Ok(65536));
        assert_eq!(number("64KiB"), Ok(65536));
        assert_eq!(number("8GiB"), Ok(8 << 30));
        assert_eq!(number("0xffffffff81cd4c0c"), Ok(0xffff_ffff_81cd_4c0c));
        assert!(number("").is_err());
        assert!(number("-1").is_err());
        assert!(number("0x").is_err());
        assert!(number("0x10000000000000000").is_err());
        assert!(number("16EiB").is_err());
        assert!(number("vmcore").is_err());
    }
}
