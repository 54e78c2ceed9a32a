//! Programs that the operator pinned: what is checked is what is executed.
//!
//! Between looking at a file and starting it somebody may put another one in its place. So a pinned
//! program is copied into a folder that is ours alone, beside the store; the copy is hashed, and the copy
//! is started. It lies in `HOME/NAME/DIGEST/` under the file's own name, because some plugins take theirs
//! from it. A copy that is there and right is used again; all others of the plugin are removed.
//!
//! Not here: which file it is (`super::settings`), starting it (`super::process`).

use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::settings::{BinaryError, PluginSettings, Program, hex};

/// Of the folders that hold copies.
const FOLDER_MODE: u32 = 0o700;
/// Of the copies.
const FILE_MODE: u32 = 0o500;

/// The program to start in place of the one that was found: itself, or, when it is pinned, our copy of it.
///
/// # Errors
/// [`BinaryError`]: its digest is another one, or there is no place for the copy.
pub(crate) fn settle(
    settings: &PluginSettings,
    program: Program,
    home: Option<&Path>,
) -> Result<Program, BinaryError> {
    let Some(expected) = &settings.sha256 else { return Ok(program) };
    let expected = expected.trim().to_ascii_lowercase();
    let no_place = |reason: String| BinaryError::NoPlace { plugin: settings.name.clone(), reason };
    let home = home.ok_or_else(|| no_place("no folder is known for it".to_owned()))?;
    let unreadable = |error: io::Error| BinaryError::Unreadable {
        path: program.path.clone(),
        reason: error.to_string(),
    };
    let other = |found| BinaryError::OtherDigest {
        plugin: settings.name.clone(),
        path: program.path.clone(),
        found,
        expected: expected.clone(),
    };
    // Early, so that a wrong file is not copied, and so that what is wrong is known by its own path.
    let found = digest(&program.path).map_err(unreadable)?;
    if found != expected {
        return Err(other(found));
    }
    let written = |error: io::Error| no_place(error.to_string());
    let folder = home.join(settings.name.as_str());
    for folder in [home, &folder] {
        make_private(folder).map_err(written)?;
    }
    let name = program.path.file_name().unwrap_or("plugin".as_ref());
    let copy = folder.join(&expected).join(name);
    remove_others(&folder, &expected);
    if !digest(&copy).is_ok_and(|found| found == expected) {
        let _ = fs::remove_dir_all(folder.join(&expected));
        let made = copy_to(&program.path, &folder, name);
        let found = made.as_ref().map_or_else(|_| Ok(String::new()), |made| digest(made));
        let (made, found) = (made.map_err(written)?, found.map_err(written)?);
        let its_folder = made.parent().unwrap_or(&folder);
        if found != expected {
            let _ = fs::remove_dir_all(its_folder);
            return Err(other(found));
        }
        fs::rename(its_folder, folder.join(&expected)).map_err(written)?;
    }
    Ok(Program { path: copy, args: program.args })
}

fn digest(path: &Path) -> io::Result<String> {
    let mut hash = Sha256::new();
    io::copy(&mut File::open(path)?, &mut hash)?;
    Ok(hex(&hash.finalize()))
}

/// A folder of ours that nobody else can write into or look into.
fn make_private(folder: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(FOLDER_MODE).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(io::Error::new(error.kind(), format!("{}: {error}", folder.display())));
        }
        _ => {}
    }
    let found = fs::symlink_metadata(folder)?;
    let is_ours = found.is_dir() && found.uid() == rustix::process::geteuid().as_raw();
    if !is_ours {
        return Err(io::Error::other(format!(
            "{} is not a folder of this user; take it away",
            folder.display()
        )));
    }
    if found.permissions().mode() & 0o777 != FOLDER_MODE {
        fs::set_permissions(folder, Permissions::from_mode(FOLDER_MODE))?;
    }
    Ok(())
}

/// Takes away what is left of copies that are not wanted any more.
fn remove_others(folder: &Path, wanted: &str) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name() != wanted {
            // What cannot be removed is not executed either.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Copies a file into a new folder in `folder`, and answers with where it is.
fn copy_to(program: &Path, folder: &Path, name: &std::ffi::OsStr) -> io::Result<PathBuf> {
    let place = folder.join(format!(".new-{:016x}", rand::random::<u64>()));
    make_private(&place)?;
    let copy = place.join(name);
    let mut file = File::create_new(&copy)?;
    io::copy(&mut File::open(program)?, &mut file)?;
    file.set_permissions(Permissions::from_mode(FILE_MODE))?;
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed apart, with sha256sum: of `#!/bin/sh\n`.
    const RIGHT: &str = "a8076d3d28d21e02012b20eaf7dbf75409a6277134439025f282e368e3305abf";

    struct Place {
        folder: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Place {
            let place = Place { folder: tempfile::tempdir().unwrap() };
            place.write("#!/bin/sh\n");
            place
        }

        fn program(&self) -> PathBuf {
            self.folder.path().join("qntx-git-plugin")
        }

        fn home(&self) -> PathBuf {
            self.folder.path().join("home")
        }

        fn write(&self, text: &str) {
            fs::write(self.program(), text).unwrap();
            fs::set_permissions(self.program(), Permissions::from_mode(0o755)).unwrap();
        }

        fn settle(&self, sha256: &str) -> Result<PathBuf, String> {
            let settings = PluginSettings {
                sha256: Some(sha256.to_owned()),
                ..PluginSettings::new("git".parse().unwrap())
            };
            let program = Program { path: self.program(), args: vec!["a".into()] };
            match super::settle(&settings, program, Some(&self.home())) {
                Ok(program) => {
                    assert_eq!(program.args, ["a"]);
                    Ok(program.path)
                }
                Err(error) => Err(error.to_string()),
            }
        }
    }

    #[test]
    fn the_copy_is_what_was_checked_and_keeps_its_name() {
        let place = Place::new();
        let copy = place.settle(&format!(" {} ", RIGHT.to_uppercase())).unwrap();
        assert_eq!(copy, place.home().join("git").join(RIGHT).join("qntx-git-plugin"));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&copy), mode(&place.home())), (0o500, 0o700));
        // What is swapped afterwards changes nothing of the copy, and is refused the next time.
        place.write("#!/bin/sh\nrm -rf /\n");
        assert_eq!(digest(&copy).unwrap(), RIGHT);
        let error = place.settle(RIGHT).unwrap_err();
        assert!(error.contains("plugins.git.sha256 says a8076d"), "{error}");
    }

    #[test]
    fn a_copy_that_was_touched_is_made_anew_and_old_ones_go() {
        let place = Place::new();
        let copy = place.settle(RIGHT).unwrap();
        fs::set_permissions(&copy, Permissions::from_mode(0o700)).unwrap();
        fs::write(&copy, "other").unwrap();
        assert_eq!(place.settle(RIGHT).unwrap(), copy);
        assert_eq!(digest(&copy).unwrap(), RIGHT);
        place.write("another version");
        let digest = digest(&place.program()).unwrap();
        let second = place.settle(&digest).unwrap();
        let left = fs::read_dir(place.home().join("git")).unwrap().count();
        assert!(second.exists() && !copy.exists() && left == 1);
    }

    #[test]
    fn a_place_that_is_not_ours_is_not_used() {
        let place = Place::new();
        std::os::unix::fs::symlink(place.folder.path(), place.home()).unwrap();
        let error = place.settle(RIGHT).unwrap_err();
        assert!(error.contains("is not a folder of this user"), "{error}");
        let settings = PluginSettings {
            sha256: Some(RIGHT.into()),
            ..PluginSettings::new("git".parse().unwrap())
        };
        let program = Program { path: place.program(), args: vec![] };
        let error = super::settle(&settings, program, None).unwrap_err().to_string();
        assert!(error.contains("no folder is known"), "{error}");
    }
}
