//! The other kernel: commands run in it as they would here, and cannot harm what is here.

use std::ffi::OsString;

use anyhow::{Result, ensure};
use integration::machine::{self, Machine, Shared};

fn run(words: &[&str]) -> Result<(i32, String)> {
    let command: Vec<OsString> = words.iter().map(|&word| word.into()).collect();
    let mut output = Vec::new();
    let status = Machine::default().run(&Shared::new()?, &command, &mut output)?;
    Ok((status, String::from_utf8_lossy(&output).into_owned()))
}

#[test]
fn a_command_runs_in_another_kernel_with_our_files_and_its_status_comes_back() -> Result<()> {
    let here = std::env::current_dir()?;
    let script = "pwd; id -u; echo \"$TMPDIR\"; touch /etc/ocicat-was-here || echo refused; touch $TMPDIR/x && echo wrote; ip link show tunl0; exit 7";
    let (status, output) = run(&["sh", "-c", script])?;
    ensure!(status == 7, "{status}: {output}");
    let begins = format!("{}\n0\n/dev/shm\n", here.display());
    ensure!(output.starts_with(&begins) && output.contains("refused\nwrote\n") && output.contains("tunl0"), "{output}");
    Ok(())
}

#[test]
fn a_machine_that_takes_too_long_is_stopped_with_all_its_processes() -> Result<()> {
    let machine = Machine { limit: std::time::Duration::from_secs(3), ..Machine::default() };
    let shared = Shared::new()?;
    let error = machine.run(&shared, &["sleep".into(), "1000".into()], &mut Vec::new()).expect_err("it has 3 s");
    ensure!(format!("{error:#}").contains("not finished after 3 s"), "{error:#}");
    let folder = shared.path().display().to_string();
    let left = std::fs::read_dir("/proc")?.flatten().filter(|process| {
        let words = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&words).contains(&folder)
    });
    ensure!(left.count() == 0, "processes of the machine are left");
    Ok(())
}

#[test]
fn a_test_that_needs_ipip_has_it_wherever_it_is_started() -> Result<()> {
    machine::with_ipip(|| {
        ensure!(machine::has_ipip());
        Ok(())
    })
}
