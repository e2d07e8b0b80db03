//! Lists that grow with the dump: in memory up to a bound, then in a
//! temporary file without a name, so that writing takes the same memory
//! whatever the dump's length.

use std::fs::File;
use std::io::Write;

use vmcask_dump::ReadAt;
use vmcask_dump::source::FileSource;

use crate::error::{Error, Result};

/// Bytes of a list kept in memory.
const IN_MEMORY: usize = 4 << 20;

/// Bytes, appended and then read from the beginning.
#[derive(Default)]
pub(crate) struct Spill {
    file: Option<File>,
    in_file: u64,
    tail: Vec<u8>,
}

impl Spill {
    pub(crate) fn len(&self) -> u64 {
        self.in_file + self.tail.len() as u64
    }

    /// Appends one record.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<()> {
        if self.tail.len() + bytes.len() > IN_MEMORY {
            let file = match &mut self.file {
                Some(file) => file,
                none => none.insert(tempfile::tempfile().map_err(Error::Write)?),
            };
            file.write_all(&self.tail).map_err(Error::Write)?;
            self.in_file += self.tail.len() as u64;
            self.tail.clear();
        }
        self.tail.extend_from_slice(bytes);
        Ok(())
    }

    /// Shows `f` everything, in pieces of whole records of `record` bytes
    /// each.
    pub(crate) fn read(&self, record: usize, mut f: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        if let Some(file) = &self.file {
            let source =
                FileSource::new(file.try_clone().map_err(Error::Write)?).map_err(Error::Write)?;
            let mut piece = vec![0; 65_536 / record * record];
            let mut at = 0;
            while at < self.in_file {
                let n = (self.in_file - at).min(piece.len() as u64) as usize;
                source.read_exact_at(at, &mut piece[..n]).map_err(|source| Error::Read {
                    off: at,
                    len: n,
                    source,
                })?;
                f(&piece[..n])?;
                at += n as u64;
            }
        }
        f(&self.tail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_back_in_order() {
        for records in [0u64, 1, 1000, (IN_MEMORY as u64 / 12) * 2 + 7] {
            let mut spill = Spill::default();
            for i in 0..records {
                let mut record = [1; 12];
                record[..8].copy_from_slice(&i.to_le_bytes());
                spill.push(&record).unwrap();
            }
            assert_eq!(spill.len(), records * 12);
            assert!(spill.tail.len() <= IN_MEMORY);
            let mut next = 0;
            spill
                .read(12, |piece| {
                    for r in piece.chunks(12) {
                        assert_eq!(r[..8], u64::to_le_bytes(next));
                        assert_eq!(r[8..], [1; 4]);
                        next += 1;
                    }
                    Ok(())
                })
                .unwrap();
            assert_eq!(next, records);
        }
    }
}
