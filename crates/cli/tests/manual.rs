//! Completions, manual pages, `--version`, and help: for every subcommand.

mod common;

use std::process::Command;

use common::{fails, have, names, ok, stderr, stdout, vmcask};

/// The subcommands that `--help` lists.
fn subcommands() -> Vec<String> {
    let help = stdout(&ok(vmcask().arg("--help")));
    let listed = help.lines().skip_while(|l| *l != "Commands:").skip(1);
    let listed = listed.take_while(|l| !l.is_empty()).filter(|l| !l.starts_with("   "));
    let names = listed.filter_map(|l| l.split_whitespace().next());
    let names: Vec<_> = names.filter(|&n| n != "help").map(str::to_owned).collect();
    assert!(names.len() >= 15, "{help}");
    names
}

#[test]
fn help_has_an_example_for_every_subcommand() {
    for command in subcommands() {
        let help = stdout(&ok(vmcask().args([&*command, "--help"])));
        let (_, example) =
            help.split_once("Example").unwrap_or_else(|| panic!("{command}: {help}"));
        assert!(example.contains(&format!("vmcask {command} ")) || command == "demo", "{help}");
    }
}

#[test]
fn a_manual_page_for_every_subcommand() {
    let dir = tempfile::tempdir().unwrap();
    let man = dir.path().join("man1");
    ok(vmcask().args(["man", "--dir"]).arg(&man));
    let mut want: Vec<_> = subcommands().iter().map(|c| format!("vmcask-{c}.1")).collect();
    want.push("vmcask.1".into());
    want.sort();
    assert_eq!(names(&man), want);
    let root = std::fs::read_to_string(man.join("vmcask.1")).unwrap();
    for command in subcommands() {
        let page = stdout(&ok(vmcask().args(["man", &command])));
        assert_eq!(page, std::fs::read_to_string(man.join(format!("vmcask-{command}.1"))).unwrap());
        assert!(page.contains(&format!(".TH vmcask-{command} 1 ")), "{page}");
        assert!(page.contains(&format!("\\fBvmcask {command}\\fR")), "{page}");
        assert!(root.contains(&format!("vmcask\\-{command}(1)")), "{command}: {root}");
    }
    let err = fails(vmcask().args(["man", "frobnicate"]), 1);
    assert!(err.contains("no subcommand frobnicate"), "{err}");
}

#[test]
fn completions_are_scripts() {
    for shell in ["bash", "zsh", "fish"] {
        let script = stdout(&ok(vmcask().args(["completions", shell])));
        for word in subcommands() {
            assert!(script.contains(&word), "{shell}: {word}");
        }
        assert!(script.contains("kernel-view"), "{shell}: values of options");
        if have(shell) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("script");
            std::fs::write(&path, script).unwrap();
            let out = ok(Command::new(shell).arg("-n").arg(path));
            assert_eq!(stderr(&out), "", "{shell}");
        }
    }
    fails(vmcask().args(["completions", "tcsh"]), 2);
}

#[test]
fn the_version_names_commit_target_and_features() {
    let short = stdout(&ok(vmcask().arg("-V")));
    let long = stdout(&ok(vmcask().arg("--version")));
    assert_eq!(short.lines().count(), 1);
    assert_eq!(long.lines().next(), short.lines().next());
    assert!(long.contains("\nfeatures: "), "{long}");
    assert!(long.contains(std::env::consts::ARCH), "{long}");
    // Built in a checkout, it names the commit; without git, none.
    let head = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output();
    let version = env!("CARGO_PKG_VERSION");
    match head.ok().filter(|out| out.status.success()) {
        Some(out) => assert_eq!(short, format!("vmcask {version} ({})\n", stdout(&out).trim())),
        None => assert_eq!(short, format!("vmcask {version}\n")),
    }
}

/// A short output that nobody reads ends quietly, on either stream.
#[test]
fn broken_pipes_end_quietly() {
    let dir = tempfile::tempdir().unwrap();
    let dump = common::gen_dump(dir.path(), "dump");
    let cask = dir.path().join("cask");
    ok(vmcask().args(["convert", "--to", "archive"]).arg(&dump).arg(&cask));
    let binary = env!("CARGO_BIN_EXE_vmcask");
    // The reader is gone before anything is written.
    let status_of = |words: &str, to: &str| {
        let script =
            format!("(sleep 0.2; exec {binary} {words}) {to} | true; exit ${{PIPESTATUS[0]}}");
        let out = Command::new("bash").env("F", &cask).args(["-c", &script]).output().unwrap();
        (out.status.code(), stderr(&out))
    };
    for words in
        ["verify $F", "info $F", "pages $F", "-q dmesg $F", "--help", "man", "completions zsh"]
    {
        assert_eq!(status_of(words, ""), (Some(0), String::new()), "{words}");
    }
    // Warnings and errors that nobody reads don't change how it ends.
    assert_eq!(status_of("info /nonexistent", "2>&1"), (Some(1), String::new()));
}
