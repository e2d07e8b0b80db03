//! Bytes written over memory: structures, strings, stack frames.

use std::collections::BTreeMap;

use crate::content::{FRAME_SIZE, Frame, Page};

/// Offset in a frame, and the bytes there.
type Patch = (u16, Box<[u8]>);

/// By frame, later ones over earlier ones.
#[derive(Clone, Debug, Default)]
pub(crate) struct Overlay(BTreeMap<u64, Vec<Patch>>);

impl Overlay {
    pub(crate) fn put(&mut self, mut pa: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let within = pa % FRAME_SIZE;
            let n = bytes.len().min((FRAME_SIZE - within) as usize);
            let (now, rest) = bytes.split_at(n);
            self.0.entry(pa / FRAME_SIZE).or_default().push((within as u16, now.into()));
            pa += n as u64;
            bytes = rest;
        }
    }

    pub(crate) fn apply(&self, frame: Frame, page: &mut Page) {
        for (at, bytes) in self.0.get(&frame.0).into_iter().flatten() {
            let at = usize::from(*at);
            page[at..at + bytes.len()].copy_from_slice(bytes);
        }
    }
}
