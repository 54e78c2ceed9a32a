//! A command on a terminal.

use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use super::{Home, axwatch_path, until};

/// A command on a terminal of its own, which `script` makes.
pub struct Terminal {
    child: Child,
    shown: Arc<Mutex<String>>,
}

impl Terminal {
    /// Starts a command on this store.
    pub fn start(home: &Home, args: &str, env: &[(&str, &str)]) -> Terminal {
        let line =
            format!("exec {} {args} --store {}", axwatch_path().display(), home.store().display());
        let mut command = Command::new("script");
        command.args(["-qec", &line, "/dev/null"]).current_dir(home.path(""));
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", home.path("")).env("TERM", "xterm-256color").env("SHELL", "/bin/sh");
        command.envs(env.iter().copied()).env("ZOO_TAG", home.tag());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("script, of util-linux, is there");
        let shown = Arc::new(Mutex::new(String::new()));
        let mut out = child.stdout.take().unwrap();
        let seen = shown.clone();
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(length @ 1..) = out.read(&mut piece) {
                seen.lock().unwrap().push_str(&String::from_utf8_lossy(&piece[..length]));
            }
        });
        Terminal { child, shown }
    }

    /// Types, as a person does.
    pub fn types(&mut self, text: &str) {
        self.child.stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }

    /// Waits until this is shown, and answers all that is.
    #[track_caller]
    pub fn until_shown(&self, text: &str) -> String {
        until(&format!("{text:?} is on the terminal"), || {
            let shown = self.shown.lock().unwrap().clone();
            shown.contains(text).then_some(shown)
        })
    }

    /// Waits for its end, and answers its exit code.
    #[track_caller]
    pub fn end(mut self) -> Option<i32> {
        until("the command ends", || self.child.try_wait().unwrap()).code()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
