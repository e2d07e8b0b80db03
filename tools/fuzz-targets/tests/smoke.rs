//! Each fuzz target over its seeds, over inputs that once did harm, and over
//! some thousand mutants, the same in every run.

use std::path::Path;

use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use vmcask_fuzz_targets::{TARGETS, Target, target};

/// Mutants of each target. More, and seeds that no other run had, by hand:
/// `VMCASK_FUZZ_MUTANTS=100000 VMCASK_FUZZ_SEED=2 cargo test -p vmcask-fuzz-targets`.
const MUTANTS: u64 = 300;

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |n| n.parse().expect("a number"))
}

/// Runs one input; what fails shows it.
fn run(target: Target, input: &[u8]) {
    let result = std::panic::catch_unwind(|| (target.run)(input));
    assert!(result.is_ok(), "{}: the input was {input:02x?}", target.name);
}

fn smoke(name: &str) {
    let target = target(name);
    let seeds = (target.seeds)();
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions").join(name);
    let mut kept_inputs = 0;
    for entry in kept.read_dir().into_iter().flatten() {
        run(target, &std::fs::read(entry.unwrap().path()).unwrap());
        kept_inputs += 1;
    }
    for seed in &seeds {
        run(target, seed);
    }
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(number("VMCASK_FUZZ_SEED", 1));
    let mutants = number("VMCASK_FUZZ_MUTANTS", MUTANTS);
    for _ in 0..mutants {
        let mut input = seeds.choose(&mut rng).unwrap().clone();
        for _ in 0..rng.random_range(1..6) {
            mutate(&mut input, &seeds, &mut rng);
        }
        run(target, &input);
    }
    println!("{name}: {} seeds, {mutants} mutants, {kept_inputs} kept inputs", seeds.len());
}

/// What fuzzers do: bits, bytes, numbers near powers of two, records of a
/// mutant, parts of other seeds.
fn mutate(input: &mut Vec<u8>, seeds: &[Vec<u8>], rng: &mut Xoshiro256PlusPlus) {
    let at = rng.random_range(0..=input.len());
    match rng.random_range(0..6) {
        0 if at < input.len() => input[at] ^= 1 << rng.random_range(0..8),
        1 if at < input.len() => input[at] = rng.random(),
        2 => {
            let power = 1u64 << rng.random_range(0..64);
            let value = power.wrapping_add(rng.random_range(0..3)).wrapping_sub(1);
            input.splice(at..at, value.to_le_bytes());
        }
        3 => {
            let power = 1u64 << rng.random_range(0..64);
            let value = power.wrapping_sub(rng.random_range(0..2)).to_le_bytes();
            let record = [rng.random_range(0..16), rng.random(), rng.random(), 0];
            input.extend(record.into_iter().chain(value));
        }
        4 => {
            let other = seeds.choose(rng).unwrap();
            input.extend_from_slice(&other[rng.random_range(0..=other.len())..]);
        }
        _ => input.truncate(at.max(1)),
    }
}

macro_rules! smoke {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            smoke(stringify!($name));
        })*

        #[test]
        fn none_is_left_out() {
            let names = [$(stringify!($name)),*];
            assert_eq!(names.to_vec(), TARGETS.map(|t| t.name).to_vec());
        }
    };
}

smoke! { minidump elf_core device kernel container archive recover convert model rank }
