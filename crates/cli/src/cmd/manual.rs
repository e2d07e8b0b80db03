//! `vmcask completions` and `vmcask man`: made from the command line's own
//! definition.

use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::{Command, CommandFactory};

use crate::Outcome;
use crate::args::{Cli, CompletionsArgs, ManArgs};

pub fn completions(args: &CompletionsArgs) -> Result<Outcome> {
    // Into memory first: clap_complete panics where it can't write.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "vmcask", &mut script);
    io::stdout().write_all(&script)?;
    Ok(Outcome::Done)
}

pub fn man(args: &ManArgs) -> Result<Outcome> {
    let pages = pages()?;
    if let Some(dir) = &args.dir {
        return write(&pages, dir);
    }
    let name = match &args.command {
        Some(command) => format!("vmcask-{command}"),
        None => "vmcask".into(),
    };
    let Some((_, page)) = pages.iter().find(|(n, _)| *n == name) else {
        bail!("there is no subcommand {}", args.command.as_deref().unwrap_or_default());
    };
    io::stdout().write_all(page)?;
    Ok(Outcome::Done)
}

/// The page of the command itself and of each subcommand, by name.
fn pages() -> Result<Vec<(String, Vec<u8>)>> {
    let mut root = Cli::command();
    root.build();
    let subcommands = root.get_subcommands().filter(|c| !c.is_hide_set() && c.get_name() != "help");
    std::iter::once(&root).chain(subcommands).map(page).collect()
}

fn page(command: &Command) -> Result<(String, Vec<u8>)> {
    let name = match command.get_name() {
        "vmcask" => "vmcask".to_owned(),
        name => format!("vmcask-{name}"),
    };
    // clap takes names that live as long as the program.
    let shown: &'static str = name.clone().leak();
    let man = clap_mangen::Man::new(command.clone().name(shown).version(env!("CARGO_PKG_VERSION")));
    let mut text = Vec::new();
    man.render(&mut text)?;
    Ok((name, text))
}

fn write(pages: &[(String, Vec<u8>)], dir: &Path) -> Result<Outcome> {
    std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    let mut stdout = io::stdout().lock();
    for (name, page) in pages {
        let path = dir.join(format!("{name}.1"));
        std::fs::write(&path, page).with_context(|| path.display().to_string())?;
        writeln!(stdout, "{}", path.display())?;
    }
    Ok(Outcome::Done)
}
