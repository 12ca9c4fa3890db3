//! Debian's own kernel in QEMU's emulation. KVM is not asked for: it may be there and not work.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{Machine, Shared, need};
use crate::process::run;
use crate::programs;

/// The package that depends on the newest kernel.
const PACKAGE: &str = "linux-image-amd64";

/// Mounts the root file system and the shared folder's first process takes over.
const INIT: &str = "#!/busybox sh
for module in $(/busybox cat /order); do /busybox insmod /modules/$module; done
/busybox mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=1048576,cache=loose root /root
exec /busybox switch_root /root \"$FIRST\"
";

/// How it is started. The kernel is downloaded once, and kept where other programs are.
///
/// # Errors
/// If a package is missing, or the kernel cannot be had.
pub(super) fn command(machine: &Machine, shared: &Shared) -> Result<Command> {
    need(&[
        ("qemu-system-x86_64", "qemu-system-x86"),
        ("busybox", "busybox-static"),
        ("xz", "xz-utils"),
        ("modprobe", "kmod"),
        ("ip", "iproute2"),
    ])?;
    let kernel = kernel()?;
    let (image, modules) = (only(&kernel.join("boot"), "vmlinuz-")?, only(&kernel.join("lib/modules"), "")?);
    let folder = shared.path().display().to_string();
    let append = format!(
        "console=ttyS0 quiet panic=-1 mitigations=off FIRST={folder}/init SHARE=9p:shared MODULES={} OUTPUT=/dev/vport1p1",
        modules.display()
    );
    let mut command = Command::new("setpriv");
    command.args([
        "--pdeathsig",
        "KILL",
        "qemu-system-x86_64",
        "-accel",
        "tcg,thread=multi",
        "-cpu",
        "max",
        "-smp",
        "2",
    ]);
    command.args(["-m", &format!("{}M", machine.memory), "-nodefaults", "-no-reboot", "-display", "none"]);
    command.arg("-kernel").arg(image).arg("-initrd").arg(kernel.join("initramfs")).args(["-append", &append]);
    command.args(["-serial", &format!("file:{folder}/serial")]);
    command.args(["-virtfs", "local,path=/,mount_tag=root,security_model=none,multidevs=remap,readonly=on"]);
    command.args(["-virtfs", &format!("local,path={folder},mount_tag=shared,security_model=none,multidevs=remap")]);
    // To a file: what is written to a closed standard input's neighbour would block.
    command.args(["-device", "virtio-serial-pci", "-chardev", &format!("file,id=output,path={folder}/output")]);
    command.args(["-device", "virtserialport,chardev=output"]);
    Ok(command)
}

/// The folder of the unpacked kernel with its initramfs.
fn kernel() -> Result<PathBuf> {
    let cache = programs::cache();
    let done = cache.join("kernel").join(PACKAGE);
    if done.is_dir() {
        return Ok(done);
    }
    eprintln!("downloading {PACKAGE} for QEMU (400 MB unpacked), once");
    let work = cache.join(format!("kernel.{}", std::process::id()));
    fs::create_dir_all(&work)?;
    let made = prepare(&work);
    let moved = made.and_then(|new| {
        fs::create_dir_all(cache.join("kernel"))?;
        // Another may have been faster.
        if let Err(error) = fs::rename(&new, &done) {
            ensure!(done.is_dir(), "{}: {error}", done.display());
        }
        Ok(())
    });
    fs::remove_dir_all(&work)?;
    moved.map(|()| done)
}

fn prepare(work: &Path) -> Result<PathBuf> {
    let depends = run(Command::new("apt-cache").args(["depends", "--no-recommends", PACKAGE]))?;
    let image = depends
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: ").filter(|name| name.starts_with("linux-image")));
    let image = image.unwrap_or(PACKAGE);
    let (new, ram) = (work.join("new"), work.join("ram"));
    fs::create_dir_all(&new)?;
    fs::create_dir_all(ram.join("root"))?;
    fs::create_dir_all(ram.join("modules"))?;
    run(Command::new("apt-get").current_dir(work).args(["-qo", "APT::Sandbox::User=root", "download", image]))?;
    let package = only(work, "linux-image")?;
    run(Command::new("dpkg").arg("-x").args([&package, &new]))?;
    let modules = only(&new.join("lib/modules"), "")?;
    let release = modules.file_name().unwrap_or_default().to_string_lossy().into_owned();
    run(Command::new("depmod").arg("-b").arg(&new).arg(&release))?;
    let needed = run(Command::new("modprobe").arg("-d").arg(&new).args([
        "-S",
        &release,
        "--show-depends",
        "-a",
        "virtio_pci",
        "9pnet_virtio",
        "9p",
    ]))?;
    let mut order: Vec<String> = Vec::new();
    for path in needed.lines().filter_map(|line| line.strip_prefix("insmod ")).map(|path| Path::new(path.trim())) {
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let name = file.trim_end_matches(".xz").to_owned();
        if order.contains(&name) {
            continue;
        }
        let into = ram.join("modules").join(&name);
        if file.ends_with(".xz") {
            let output = Command::new("xz").arg("-dc").arg(path).output()?;
            fs::write(&into, output.stdout)?;
        } else {
            fs::copy(path, &into)?;
        }
        order.push(name);
    }
    fs::write(ram.join("order"), order.join("\n"))?;
    fs::copy(programs::find("busybox").context("busybox")?, ram.join("busybox"))?;
    fs::write(ram.join("init"), INIT)?;
    let pack = "chmod 755 init busybox && find . | busybox cpio -o -H newc > ../new/initramfs";
    run(Command::new("sh").current_dir(&ram).args(["-c", pack]))?;
    Ok(new)
}

/// The only (or last) entry of a folder whose name begins so.
fn only(folder: &Path, prefix: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let named = entries.flatten().map(|entry| entry.path());
    let named = named.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)));
    named.max().with_context(|| format!("no {prefix}… in {}", folder.display()))
}
