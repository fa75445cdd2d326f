//! A catalogue in memory and short ways to give it commands.
#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(unreachable_pub, clippy::unwrap_used, reason = "it is part of each test")]

use obt_catalogue::signing::PublicKey;
use obt_catalogue::{
    BlobHash, Catalogue, Command, CommandId, Content, Envelope, Layout, Name, Outcome, Publish, Replace,
};
use obt_wire::{InfoHashes, Sha1Hash, Sha256Hash};

pub const ALICE: PublicKey = PublicKey([1; 32]);
pub const BOB: PublicKey = PublicKey([2; 32]);
pub const NOW: u64 = 1_760_000_000_000;

pub struct Ledger {
    pub catalogue: Catalogue,
    next: u128,
    pub now: u64,
}

impl Ledger {
    /// Alice and Bob may publish.
    pub fn new() -> Self {
        Self::of(Catalogue::in_memory().unwrap())
    }

    /// The same with this catalogue.
    pub fn of(catalogue: Catalogue) -> Self {
        let mut this = Self { catalogue, next: 0, now: NOW };
        for key in [ALICE, BOB] {
            this.run(Command::AddKey { key, label: String::new(), names: None });
        }
        this
    }

    pub fn envelope(&mut self, command: Command) -> Envelope {
        self.next += 1;
        Envelope::new(CommandId(self.next.to_be_bytes()), self.now, command)
    }

    pub fn run(&mut self, command: Command) -> Outcome {
        let envelope = self.envelope(command);
        self.catalogue.apply(&[envelope]).unwrap().remove(0)
    }

    pub fn publish(&mut self, key: PublicKey, name: &str, content: u8) -> Outcome {
        self.run(publish(key, name, file(content), Replace::No))
    }

    pub fn replace(&mut self, key: PublicKey, name: &str, content: u8) -> Outcome {
        self.run(publish(key, name, file(content), Replace::Yes))
    }

    pub fn names(&self, text: &str) -> Vec<String> {
        let mut names = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let page = self.catalogue.search(text, cursor.as_deref(), 7).unwrap();
            names.extend(page.entries.into_iter().map(|entry| entry.name.to_string()));
            cursor = page.cursor;
            if cursor.is_none() {
                return names;
            }
        }
    }
}

pub fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

pub fn publish(key: PublicKey, name: &str, content: Content, replace: Replace) -> Command {
    Command::Publish(Publish { name: self::name(name), content, key, replace })
}

pub fn hashes(seed: u8) -> InfoHashes {
    InfoHashes { v1: Some(Sha1Hash([seed; 20])), v2: Some(Sha256Hash([seed; 32])) }
}

pub fn file(seed: u8) -> Content {
    Content {
        hashes: hashes(seed),
        size: 1_000 + u64::from(seed),
        files: 1,
        layout: Layout::File,
        piece_length: 16_384,
        blob: BlobHash([seed; 32]),
    }
}

pub fn folder(seed: u8) -> Content {
    Content { layout: Layout::Folder, files: 3, ..file(seed) }
}
