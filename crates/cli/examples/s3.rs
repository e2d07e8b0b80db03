//! `cargo run -p vmcask --example s3 -- FOLDER [PORT]`: an S3 store on this
//! machine, to try `vmcask ... s3://dumps/...` with. Prints the environment
//! that it wants, and each request.

#[path = "../tests/s3/mod.rs"]
mod s3;

use std::path::PathBuf;
use std::time::Duration;

fn main() {
    let mut args = std::env::args_os().skip(1);
    let Some(folder) = args.next().map(PathBuf::from) else {
        eprintln!("usage: s3 FOLDER [PORT]");
        std::process::exit(2);
    };
    let port = args.next().and_then(|p| p.to_str()?.parse().ok()).unwrap_or(0);
    let store = s3::S3::on(&folder, port);
    println!(
        "export AWS_ENDPOINT_URL={} AWS_ACCESS_KEY_ID={} AWS_SECRET_ACCESS_KEY={} AWS_REGION=us-east-1",
        store.endpoint(),
        s3::KEY_ID,
        s3::SECRET
    );
    let mut told = 0;
    loop {
        std::thread::sleep(Duration::from_millis(100));
        let log = store.log.lock().expect("unpoisoned");
        for (method, path, range) in &log.requests[told..] {
            eprintln!("{method} {path} {}", range.as_deref().unwrap_or(""));
        }
        told = log.requests.len();
    }
}
