//! The page of the language, followed to the letter by somebody who has never seen it.

use std::fs;
use std::process::Command;

use crate::support::{Home, axwatch_path, number, text};

/// The commands of a section: its indented lines.
fn commands(page: &str, section: &str) -> Vec<String> {
    let (_, rest) = page.split_once(&format!("\n## {section}\n")).expect("the section is there");
    let (section, _) = rest.split_once("\n## ").expect("it is not the last");
    let lines = section.lines().filter_map(|line| line.strip_prefix("    axwatch "));
    lines.map(|line| format!("axwatch {line}")).collect()
}

#[test]
fn five_minutes_lead_to_a_watcher_that_fires_for_the_right_claim() {
    let page = fs::read_to_string("docs/language.md").unwrap();
    let home = Home::new("language");
    home.configure("[plugin]\nenabled = [\"notify\"]\n");
    let server = home.serve();
    server.until_ready(&["notify"]);
    let folder = axwatch_path().parent().unwrap().to_owned();
    let run = |command: &str, json: bool| {
        let json = if json { " --json" } else { "" };
        // A remark at the end of a line is the shell's.
        let (command, remark) = command.split_once(" #").unwrap_or((command, ""));
        let ran = Command::new("/bin/sh")
            .args(["-ec", &format!("{command}{json} #{remark}")])
            .env("PATH", &folder)
            .env("AXWATCH_STORE", home.store())
            .output()
            .unwrap();
        let (out, err) =
            (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
        assert!(ran.status.success(), "{command}\n{out}\n{err}");
        out.into_owned()
    };
    let commands = commands(&page, "Five minutes");
    assert_eq!(commands.len(), 16, "{commands:#?}");
    // What each question finds, in the order of the page.
    let mut found = [1, 2, 3, 2, 1, 1].into_iter();
    for command in &commands {
        run(command, false);
        if command.starts_with("axwatch ax") {
            let claims = run(command, true).lines().count();
            assert_eq!(Some(claims), found.next(), "{command}");
        }
        if command.starts_with("axwatch as") {
            server.until_settled();
        }
    }
    let tried = run(commands.iter().find(|command| command.contains("watch test")).unwrap(), true);
    assert!(tried.contains("build-42") && !tried.contains("build-41"), "{tried}");
    let fires = home.json(&["fires", "--watcher", "stubborn"]);
    let [fire] = &fires[..] else { panic!("{fires:?}") };
    assert_eq!((text(fire, "attestation_id"), text(fire, "state")), ("four", "completed"));
    assert_eq!(number(fire, "attempts"), 1);
    let told = run(commands.last().unwrap(), false);
    assert!(told.contains("retries"), "{told}");
    server.stop();
}
