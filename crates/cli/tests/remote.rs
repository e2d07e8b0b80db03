//! URLs on the command line: an S3 store and a web server of the test's own.

mod common;
#[path = "s3/mod.rs"]
mod s3;
#[path = "../../remote/tests/web/mod.rs"]
mod web;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use common::{assert_same, fails, ok, stderr, stdout, vmcask};
use s3::{BUCKET, KEY_ID, S3, SECRET};
use web::{Fault, Web};

/// A dump, its kernel image, and a folder that is a store.
struct Bench {
    dir: tempfile::TempDir,
    s3: S3,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let s3 = S3::new(&dir.path().join("store"));
        Self { dir, s3 }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The file that an object of the store is.
    fn object(&self, key: &str) -> PathBuf {
        self.path("store").join(BUCKET).join(key)
    }

    fn vmcask(&self) -> Command {
        let mut command = vmcask();
        self.s3.env(&mut command);
        command
    }

    /// `dump` and `kernel`, and `dump.cask` locally and in the store.
    fn dump(&self) {
        let (dump, cask) = (self.path("dump"), self.path("dump.cask"));
        ok(vmcask()
            .args(["-q", "gen", "--ram", "1GiB", "--dump", "32MiB", "--kernel"])
            .arg(self.path("kernel"))
            .arg(&dump));
        ok(vmcask().args(["-q", "convert"]).args([&dump, &cask]));
        std::fs::copy(self.path("kernel"), self.object("kernel")).unwrap();
        // Of what was uploaded the store knows the ETag; other files it hashes
        // anew for each request.
        for (name, to) in [("dump", "minidump"), ("dump.cask", "archive")] {
            let url = format!("s3://{BUCKET}/{name}");
            ok(self.vmcask().args(["-q", "convert", "--to", to]).arg(&dump).arg(url));
            assert_same(&self.path(name), &self.object(name));
        }
    }

    /// A dump whose archive is as long: many parts.
    fn random_dump(&self, bytes: &str) -> PathBuf {
        let dump = self.path("dump");
        ok(vmcask()
            .args(["-q", "gen", "--ram", "1GiB", "--profile", "random", "--dump", bytes])
            .arg(&dump));
        dump
    }

    /// Nothing in the store but `objects`: no half uploads either.
    #[track_caller]
    fn assert_objects(&self, objects: &[&str]) {
        let names = common::names(&self.path("store").join(BUCKET));
        let parts: Vec<_> = common::names(&self.path("store"))
            .into_iter()
            .filter(|n| n.contains("upload"))
            .collect();
        assert_eq!(names, objects);
        assert!(parts.is_empty(), "{parts:?}");
    }
}

#[track_caller]
fn without_secrets(out: &Output) -> String {
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), stderr(out));
    for secret in [SECRET, KEY_ID, "s3cr3t"] {
        assert!(!text.contains(secret), "{text}");
    }
    text
}

/// Requests and bytes received, as `--stats` says.
#[track_caller]
fn stats(out: &Output) -> (u64, u64) {
    let text = stderr(out);
    let line = text.lines().find(|l| l.contains("network: ")).expect("a line of statistics");
    let numbers: Vec<u64> = line.split_whitespace().filter_map(|w| w.parse().ok()).collect();
    (numbers[0], numbers[1])
}

#[test]
fn every_command_says_of_a_url_what_it_says_of_the_file() {
    let b = Bench::new();
    b.dump();
    let web = Web::new(std::fs::read(b.path("dump.cask")).unwrap());
    let kernel = b.path("kernel");
    let kernel = kernel.to_str().unwrap();
    let url = format!("{}?X-Amz-Signature=s3cr3t", web.url);
    for (name, urls) in [
        ("dump.cask", vec![format!("s3://{BUCKET}/dump.cask"), url]),
        ("dump", vec![format!("s3://{BUCKET}/dump")]),
    ] {
        let file = b.path(name);
        for url in urls {
            for args in [
                vec!["info"],
                vec!["info", "--json", "--kernel", kernel],
                vec!["pages"],
                vec!["verify"],
                vec!["dmesg", "--kernel", kernel],
                vec!["triage", "--kernel", kernel],
                vec!["ps", "--kernel", kernel],
                vec!["bt", "--all", "--kernel", kernel],
                vec!["read", "--symbol", "version", "--kernel", kernel],
                vec!["bt", "--json", "--kernel", "s3://dumps/kernel"],
            ] {
                let here = ok(b.vmcask().args(&args).arg(&file));
                let there = ok(b.vmcask().args(&args).arg(&url));
                without_secrets(&there);
                let shown = url.split('?').next().unwrap();
                let there = stdout(&there)
                    .replace(&format!("{shown}?..."), file.to_str().unwrap())
                    .replace(shown, file.to_str().unwrap());
                assert_eq!(there, stdout(&here), "{args:?} {url}");
            }
        }
    }
    // Back to a file, out of every container.
    ok(Command::new("gzip").arg("-k").arg(b.path("dump")));
    std::fs::rename(b.path("dump.gz"), b.object("dump.gz")).unwrap();
    for name in ["dump", "dump.cask", "dump.gz"] {
        let back = b.path("back");
        let url = format!("s3://{BUCKET}/{name}");
        ok(b.vmcask().args(["-q", "convert", "--to", "minidump", &url]).arg(&back));
        assert_same(&back, &b.path("dump"));
        std::fs::remove_file(back).unwrap();
    }
    let err = fails(b.vmcask().args(["pages", "s3://dumps/dump.gz"]), 1);
    assert!(err.contains("convert it first"), "{err}");
}

/// The promise: `info` under 1 MiB, `bt` under 8 MiB, each in under 20 requests.
#[test]
fn one_question_costs_little() {
    let b = Bench::new();
    let kernel = b.path("kernel");
    ok(vmcask()
        .args(["-q", "gen", "--ram", "64GiB", "--dump", "8GiB", "--sparse", "--kernel"])
        .arg(&kernel)
        .args(["--format", "archive"])
        .arg(b.object("big.cask")));
    let url = "s3://dumps/big.cask";
    for (args, most) in [
        (vec!["info"], 1 << 20),
        (vec!["bt", "--kernel", kernel.to_str().unwrap()], 8 << 20),
        (vec!["triage", "--kernel", kernel.to_str().unwrap()], 8 << 20),
    ] {
        let before = b.s3.requests();
        let out = ok(b.vmcask().arg("--stats").args(&args).arg(url));
        let (requests, bytes) = stats(&out);
        assert_eq!(requests, (b.s3.requests() - before) as u64);
        println!("{args:?}: {requests} requests, {bytes} bytes");
        assert!(bytes < most, "{args:?}: {bytes} bytes");
        assert!(requests < 20, "{args:?}: {requests} requests");
    }
}

#[test]
fn archives_go_to_a_store_in_parts() {
    let b = Bench::new();
    let dump = b.path("dump");
    // Larger than a part.
    ok(vmcask()
        .args(["-q", "gen", "--ram", "1GiB", "--dump", "24MiB", "--profile", "random"])
        .arg(&dump));
    let here = b.path("here.cask");
    ok(vmcask().args(["-q", "convert"]).args([&dump, &here]));
    let url = format!("s3://{BUCKET}/web 1/there.cask");
    let out = ok(b.vmcask().arg("convert").arg(&dump).arg(&url));
    assert!(without_secrets(&out).contains("web 1/there.cask: "));
    assert_same(&here, &b.object("web 1/there.cask"));
    let log = b.s3.log.lock().unwrap().requests.clone();
    let parts = log.iter().filter(|r| r.1.contains("partNumber=")).count();
    assert!(parts >= 3, "{log:?}");

    // There already.
    let err = fails(b.vmcask().arg("convert").arg(&dump).arg(&url), 1);
    assert!(err.contains("exists; --force replaces it"), "{err}");
    let before = b.s3.requests();
    let out = ok(b.vmcask().args(["convert", "--skip-existing", "--json"]).arg(&dump).arg(&url));
    assert!(stdout(&out).contains("\"event\":\"skipped\""), "{}", stdout(&out));
    assert!(b.s3.requests() - before <= 8, "{:?}", b.s3.log.lock().unwrap().requests);
    ok(b.vmcask().args(["-q", "convert", "--force", "--plain"]).arg(&dump).arg(&url));
    assert_ne!(std::fs::read(b.object("web 1/there.cask")).unwrap(), std::fs::read(&here).unwrap());
    // What is there and isn't an archive was left by somebody else.
    std::fs::write(b.object("there.cask"), b"notes").unwrap();
    let url = "s3://dumps/there.cask";
    let err = fails(b.vmcask().args(["convert", "--skip-existing"]).arg(&dump).arg(url), 1);
    assert!(err.contains("no whole archive"), "{err}");
    // Small ones, and other formats.
    let small = b.path("small");
    ok(vmcask().args(["-q", "gen", "--ram", "64MiB", "--dump", "4MiB"]).arg(&small));
    for to in ["archive", "elf", "minidump"] {
        let (here, url) = (b.path(to), format!("s3://{BUCKET}/small.{to}"));
        ok(vmcask().args(["-q", "convert", "--to", to]).args([&small, &here]));
        ok(b.vmcask().args(["-q", "convert", "--to", to]).arg(&small).arg(&url));
        assert_same(&here, &b.object(&format!("small.{to}")));
        let err = fails(b.vmcask().args(["convert", "--to", to]).arg(&small).arg(&url), 1);
        assert!(err.contains("exists"), "{err}");
    }
    let err = fails(vmcask().arg("convert").arg(&small).arg("http://127.0.0.1:1/x.cask"), 1);
    assert!(err.contains("can't be written to"), "{err}");
}

/// A store that fails now and then, or always.
#[test]
fn uploads_survive_failures_or_leave_nothing() {
    let b = Bench::new();
    let dump = b.random_dump("24MiB");
    // One request in three fails, the same one once.
    let seen = std::sync::Mutex::new(std::collections::HashSet::new());
    b.s3.fail(move |n, method, path| {
        let first = seen.lock().unwrap().insert(format!("{method}{path}"));
        (first && n % 3 == 1).then_some(503)
    });
    ok(b.vmcask().args(["-q", "convert"]).arg(&dump).arg("s3://dumps/a.cask"));
    b.s3.fail(|_, _, _| None);
    let back = b.path("back");
    ok(b.vmcask().args(["-q", "convert", "--to", "minidump", "s3://dumps/a.cask"]).arg(&back));
    assert_same(&back, &dump);
    std::fs::remove_file(b.object("a.cask")).unwrap();
    b.assert_objects(&[]);

    // The third part never arrives, and neither does the end.
    for broken in ["partNumber=3", "uploadId="] {
        b.s3.fail(move |_, method, path| {
            let hit = path.contains(broken)
                && (broken.starts_with("part") || *method == hyper::Method::POST);
            hit.then_some(500)
        });
        let err = fails(b.vmcask().args(["-q", "convert"]).arg(&dump).arg("s3://dumps/a.cask"), 75);
        assert!(err.contains("s3://dumps/a.cask: ") && err.contains("HTTP 500"), "{err}");
        b.assert_objects(&[]);
    }
}

#[test]
fn an_interrupted_upload_leaves_nothing() {
    let b = Bench::new();
    let dump = b.random_dump("64MiB");
    let mut child = b
        .vmcask()
        .args(["-q", "convert", "--level", "22", "--threads", "1"])
        .arg(&dump)
        .arg("s3://dumps/a.cask")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let began = Instant::now();
    while !b.s3.log.lock().unwrap().requests.iter().any(|r| r.1.contains("partNumber=")) {
        assert!(began.elapsed() < Duration::from_secs(300), "no part comes");
        assert!(child.try_wait().unwrap().is_none(), "it ended before its first part");
        std::thread::sleep(Duration::from_millis(5));
    }
    ok(Command::new("kill").args(["-INT", &child.id().to_string()]));
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(130), "{}", stderr(&out));
    b.assert_objects(&[]);
}

/// Two workers on the same dump: one object, whole, and no error for the one
/// that is told to expect that.
#[test]
fn two_workers_on_one_dump() {
    let b = Bench::new();
    let dump = b.random_dump("24MiB");
    for skip in [true, false] {
        let workers: Vec<_> = (0..2)
            .map(|_| {
                let mut command = b.vmcask();
                command.args(["-q", "convert"]).arg(&dump).arg("s3://dumps/a.cask");
                if skip {
                    command.arg("--skip-existing");
                }
                command.stderr(Stdio::piped()).spawn().unwrap()
            })
            .collect();
        let outs: Vec<_> = workers.into_iter().map(|w| w.wait_with_output().unwrap()).collect();
        let mut ended: Vec<_> = outs.iter().map(|o| o.status.code().unwrap()).collect();
        ended.sort_unstable();
        // This store looks for the object and then writes it: two that end at
        // the same moment both succeed. Nobody fails otherwise.
        assert!(ended == [0, 0] || !skip && ended == [0, 1], "{outs:?}");
        b.assert_objects(&["a.cask"]);
        ok(b.vmcask().args(["-q", "verify", "s3://dumps/a.cask"]));
        std::fs::remove_file(b.object("a.cask")).unwrap();
    }
    // Another worker's object appears just before this one's upload ends.
    for (flag, code, stays) in
        [("-q", 1, true), ("--skip-existing", 0, true), ("--force", 0, false)]
    {
        let theirs = b.object("a.cask");
        b.s3.fail(move |_, method, path| {
            if *method == hyper::Method::POST && path.contains("uploadId=") {
                std::fs::write(&theirs, b"theirs").unwrap();
            }
            None
        });
        let out = b.vmcask().args(["convert", flag]).arg(&dump).arg("s3://dumps/a.cask").output();
        let out = out.unwrap();
        assert_eq!(out.status.code(), Some(code), "{flag}: {}", stderr(&out));
        assert_eq!(std::fs::read(b.object("a.cask")).unwrap() == b"theirs", stays, "{flag}");
        b.assert_objects(&["a.cask"]);
        std::fs::remove_file(b.object("a.cask")).unwrap();
    }
}

#[test]
fn secrets_stay_secret() {
    let b = Bench::new();
    b.dump();
    let mut wrong = b.vmcask();
    wrong.env("AWS_SECRET_ACCESS_KEY", "another-s3cr3t").args(["info", "s3://dumps/dump.cask"]);
    let out = wrong.output().unwrap();
    let text = without_secrets(&out);
    assert_eq!(out.status.code(), Some(1), "{text}");
    assert!(text.contains("access denied (HTTP 403)"), "{text}");
    let out = b.vmcask().args(["info", "s3://dumps/nothing"]).output().unwrap();
    assert!(without_secrets(&out).contains("there is no such object"));
    for url in ["https://me:s3cr3t@127.0.0.1:1/x", "s3://me:s3cr3t@dumps/x", "http://[bad?s3cr3t"] {
        let out = b.vmcask().args(["info", url]).output().unwrap();
        let text = without_secrets(&out);
        assert_eq!(out.status.code(), Some(2), "{url}: {text}");
    }
    let web = Web::failing(Vec::new(), |_| Fault::Status(403));
    let out = b.vmcask().args(["info", &format!("{}?s3cr3t", web.url)]).output().unwrap();
    assert!(without_secrets(&out).contains("access denied"));
    // Nor in what is written.
    ok(b.vmcask().args(["-q", "convert", "s3://dumps/dump"]).arg(b.path("out.cask")));
    let bytes = std::fs::read(b.path("out.cask")).unwrap();
    for secret in [SECRET, KEY_ID] {
        assert!(!bytes.windows(secret.len()).any(|w| w == secret.as_bytes()));
    }
}

/// A transport that changes bytes: every answer but the first has one bit
/// flipped. Whatever is read is an error or right.
#[test]
fn wrong_bytes_are_never_believed() {
    let b = Bench::new();
    b.dump();
    let cask = std::fs::read(b.path("dump.cask")).unwrap();
    let kernel = b.path("kernel");
    for from in [0, 1, 2, 5] {
        let flip = move |n| if n >= from { Fault::Flip } else { Fault::None };
        let web = Web::failing(cask.clone(), flip);
        let out = vmcask().args(["verify", &web.url]).output().unwrap();
        assert_eq!(out.status.code(), Some(1), "{from}: {}", stderr(&out));
        for args in [
            vec!["bt", "--all", "--json"],
            vec!["dmesg", "--json"],
            vec!["read", "--symbol", "version", "--raw"],
        ] {
            let here =
                ok(vmcask().args(&args).arg(b.path("dump.cask")).arg("--kernel").arg(&kernel));
            let web = Web::failing(cask.clone(), flip);
            let there = vmcask().args(&args).arg(&web.url).arg("--kernel").arg(&kernel).output();
            let there = there.unwrap();
            if there.status.code() == Some(0) {
                let shown = b.path("dump.cask");
                let text = stdout(&there).replace(&web.url, shown.to_str().unwrap());
                assert_eq!(text, stdout(&here), "{from} {args:?}");
            } else {
                assert!(matches!(there.status.code(), Some(1 | 3)), "{from} {args:?}");
                assert!(!stderr(&there).is_empty());
            }
        }
    }
}

#[test]
fn other_failures_of_servers() {
    for (fault, code, says) in [
        (Fault::Whole, 1, "doesn't answer range requests"),
        (Fault::Status(500), 75, "HTTP 500, asked 5 times"),
        (Fault::Status(404), 1, "no such object"),
    ] {
        let web = Web::failing(vec![1; 100_000], move |_| fault);
        let err = fails(vmcask().args(["info", &web.url]), code);
        assert!(err.contains(says), "{err}");
    }
    let err = fails(vmcask().args(["bench", "s3://dumps/x"]), 2);
    assert!(err.contains("a file of this machine is needed"), "{err}");
}

/// Google's and Azure's stores, as far as a plain web server can play them:
/// where requests go, and that ranges and versions are asked for.
#[test]
fn other_stores() {
    let b = Bench::new();
    b.dump();
    let here = stdout(&ok(vmcask().arg("info").arg(b.path("dump.cask"))));
    for (url, vars, path) in [
        (
            "gs://dumps/a/dump.cask",
            [("GOOGLE_BASE_URL", "URL"), ("GOOGLE_SKIP_SIGNATURE", "true"), ("X", "")],
            "/dumps/a%2Fdump%2Ecask",
        ),
        (
            "az://dumps/a/dump.cask",
            [
                ("AZURE_STORAGE_ACCOUNT_NAME", "account"),
                ("AZURE_STORAGE_ENDPOINT", "URL"),
                ("AZURE_SKIP_SIGNATURE", "true"),
            ],
            "/dumps/a/dump.cask",
        ),
    ] {
        let web = Web::new(std::fs::read(b.path("dump.cask")).unwrap());
        let endpoint = web.url.split("/dir").next().unwrap();
        let mut command = vmcask();
        command.args(["info", url]);
        for (name, value) in vars {
            command.env(name, value.replace("URL", endpoint));
        }
        let out = ok(&mut command);
        assert_eq!(stdout(&out).replace(url, b.path("dump.cask").to_str().unwrap()), here);
        let log = web.site.log.lock().unwrap();
        assert!(log.iter().all(|(p, range)| p.contains(path) && range.is_some()), "{log:?}");
    }
}

/// The script that the Kubernetes Job runs, and GNU parallel, over a list of
/// keys: some are there already, one is no dump.
#[test]
fn the_recipes_work() {
    let b = Bench::new();
    let keys = b.path("keys.txt");
    std::fs::create_dir_all(b.path("store/archives")).unwrap();
    for key in ["a", "b"] {
        ok(vmcask().args(["-q", "gen", "--ram", "64MiB", "--dump", "4MiB"]).arg(b.object(key)));
    }
    std::fs::write(b.object("c"), b"no dump").unwrap();
    std::fs::write(&keys, "a\nb\nc\n").unwrap();
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tools");
    let manifest = std::fs::read_to_string(tools.join("kubernetes/convert-bucket.yaml")).unwrap();
    let (_, script) = manifest.split_once("            - |\n").unwrap();
    let script: Vec<_> = script.lines().map_while(|l| l.strip_prefix("              ")).collect();
    let bin = Path::new(env!("CARGO_BIN_EXE_vmcask")).parent().unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let worker = |index: usize| {
        let mut sh = Command::new("/bin/sh");
        sh.args(["-euc", &script.join("\n")]).env("PATH", &path);
        sh.env("JOB_COMPLETION_INDEX", index.to_string()).env("KEYS", &keys);
        sh.env("FROM", "s3://dumps").env("TO", "s3://archives");
        b.s3.env(&mut sh).output().unwrap()
    };
    for (index, code) in [(0, 0), (0, 0), (1, 0), (2, 1), (3, 1)] {
        let out = worker(index);
        assert_eq!(out.status.code(), Some(code), "{index}: {}", stderr(&out));
    }
    ok(b.vmcask().args(["-q", "verify", "s3://archives/a.cask"]));

    if !common::have("parallel") {
        return;
    }
    std::fs::remove_file(b.path("store/archives/a.cask")).unwrap();
    let readme = std::fs::read_to_string(tools.join("README.md")).unwrap();
    let (_, recipe) = readme.split_once("```sh\nparallel").unwrap();
    let (recipe, _) = recipe.split_once("```").unwrap();
    let mut sh = Command::new("/bin/sh");
    sh.args(["-euc", &format!("parallel{recipe}")]).env("PATH", &path);
    let out = b.s3.env(&mut sh).current_dir(b.dir.path()).output().unwrap();
    // As many as failed: c alone.
    assert_eq!(out.status.code(), Some(1), "{}", stderr(&out));
    for key in ["a", "b"] {
        ok(b.vmcask().args(["-q", "verify", &format!("s3://archives/{key}.cask")]));
    }
}
