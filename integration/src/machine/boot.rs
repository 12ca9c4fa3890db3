//! What a machine finds when it starts: its first process, and the command with its environment.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;

use anyhow::{Context, Result};

use super::{INSIDE, Shared, TEMPORARY};

/// Where the folder that host and machine share is seen inside.
pub(super) const SHARED: &str = "/run/shared";

/// The first process. `SHARED` is the shared folder; it comes with the kernel's command line, as does `MODULES`.
const INIT: &str = include_str!("init.sh");

/// Writes the first process and the command into the shared folder.
///
/// # Errors
/// The file system's.
pub(super) fn write(shared: &Shared, here: &Path, command: &[OsString]) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let init = shared.path().join("init");
    fs::write(&init, INIT)?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    let program = command.first().map(Path::new);
    let mut shown: Vec<&OsStr> = [Some(here), program].into_iter().flatten().filter_map(in_tmp).collect();
    shown.dedup();
    let lines: Vec<u8> = shown.iter().flat_map(|name| [name.as_bytes(), b"\n"].concat()).collect();
    fs::write(shared.path().join("shown"), lines)?;
    let script = script(env::vars_os(), here, command);
    fs::write(shared.path().join("command"), script.as_bytes()).context("the machine's command")
}

/// The folder of `/tmp` that a path is in: a clone may have been made there.
fn in_tmp(path: &Path) -> Option<&OsStr> {
    path.strip_prefix("/tmp").ok()?.iter().next()
}

fn script(variables: impl Iterator<Item = (OsString, OsString)>, here: &Path, command: &[OsString]) -> OsString {
    let mut script = Vec::new();
    for (name, value) in variables {
        let octets = name.as_bytes();
        // What the shell could not set (functions that bash exports) is nothing that a program of ours reads.
        let valid = octets.iter().all(|octet| octet.is_ascii_alphanumeric() || *octet == b'_')
            && octets.first().is_some_and(|first| !first.is_ascii_digit());
        if valid && !["TMPDIR", INSIDE].iter().any(|own| name == *own) {
            script.extend([b"export ", octets, b"=", &quoted(&value), b"\n"].concat());
        }
    }
    script.extend(format!("export TMPDIR={TEMPORARY} {INSIDE}=1\ncd ").bytes());
    script.extend(quoted(here.as_os_str()));
    script.extend(b"\nexec");
    for word in command {
        script.push(b' ');
        script.extend(quoted(word));
    }
    script.push(b'\n');
    OsString::from_vec(script)
}

/// A word that a shell reads as it is.
fn quoted(word: &OsStr) -> Vec<u8> {
    let mut quoted = vec![b'\''];
    for octet in word.as_bytes() {
        match octet {
            b'\'' => quoted.extend(b"'\\''"),
            other => quoted.push(*other),
        }
    }
    quoted.push(b'\'');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_gives_the_command_the_words_and_the_environment_that_we_had() {
        let words = ["printf", "%s|%s|%s|%s", "it's", "two\nlines", "$HOME `id` \"\\"].map(OsString::from);
        let mut words = words.to_vec();
        words.push("--".into());
        let variables = [("A_1", "it's $B"), ("1BAD", "x"), ("BASH_FUNC_f%%", "() { :; }"), ("TMPDIR", "/other")];
        let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into()));
        let script = script(variables, Path::new("/"), &words);
        let text = script.to_string_lossy().into_owned().replace("exec ", "echo \"$A_1 $TMPDIR\"; exec ");
        let output = std::process::Command::new("sh").arg("-c").arg(text).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let printed = String::from_utf8(output.stdout).unwrap();
        assert_eq!(printed, "it's $B /dev/shm\nit's|two\nlines|$HOME `id` \"\\|--");
    }
}
