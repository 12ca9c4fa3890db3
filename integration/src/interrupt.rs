//! What a program leaves behind when it is interrupted: nothing. Namespaces and processes go with it, folders must be removed.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, mpsc};

use nix::sys::signal::{SigSet, Signal};

/// What happens on Ctrl-C, SIGTERM and SIGHUP: the folders that were named are removed, and the program ends with 130.
#[derive(Clone, Debug, Default)]
pub struct Interrupt {
    folders: Arc<Mutex<Vec<PathBuf>>>,
    waiting: Arc<Mutex<Option<mpsc::Sender<()>>>>,
}

impl Interrupt {
    /// Takes the signals from now on. To be called before there are other threads, which would take them too.
    pub fn catch() -> Self {
        let signals: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect();
        if let Err(error) = signals.thread_block() {
            eprintln!("Ctrl-C will leave temporary folders behind: {error}");
        }
        let interrupt = Self::default();
        std::thread::spawn({
            let interrupt = interrupt.clone();
            move || {
                while signals.wait().is_ok() {
                    if let Ok(Some(sender)) = interrupt.waiting.lock().map(|mut waiting| waiting.take()) {
                        let _ = sender.send(());
                        continue;
                    }
                    for folder in interrupt.folders.lock().iter().flat_map(|folders| folders.iter()) {
                        // What is not removed now, nobody can remove.
                        let _ = std::fs::remove_dir_all(folder);
                    }
                    eprintln!("\ninterrupted");
                    std::process::exit(130);
                }
            }
        });
        interrupt
    }

    /// This folder is to be removed.
    pub fn clean_up(&self, folder: PathBuf) {
        if let Ok(mut folders) = self.folders.lock() {
            folders.push(folder);
        }
    }

    /// Waits for one signal, which then does nothing else.
    pub fn wait(&self) {
        let (sender, receiver) = mpsc::channel();
        if let Ok(mut waiting) = self.waiting.lock() {
            *waiting = Some(sender);
        }
        let _ = receiver.recv();
    }
}
