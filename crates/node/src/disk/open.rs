//! How a store begins: what is on disk already, and what may be believed of it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, RwLock};

use obt_storage::ledger::Ledger;
use obt_storage::names::{self, Found, Place};
use obt_storage::resume::{Resume, resume};
use obt_storage::{FileIndex, Journal, Layout, Slot, Stamp, journal};
use obt_wire::metainfo::{File as TorrentFile, Metainfo};
use obt_wire::{Bitfield, PieceIndex};
use rustix::fs::FileType;
use tokio::sync::mpsc::UnboundedSender;

use super::existing::AfterBad;
use super::files::{Base, Files};
use super::growth::Growth;
use super::partial::{Partial, io_error};
use super::piece_hash::PieceHashes;
use super::store::{Data, Proof, Store};
use super::workers::Lane;
use super::{Disk, Done, DownloadPlan, OnExisting, Selection, StoreError};

/// Largest download whose files get their room in one go, bytes: beyond this the time and the room that it takes
/// matter more than a file in one stretch.
const PREALLOCATE_UP_TO: u64 = 16 << 30;

/// A plan with everything about names decided.
struct Target {
    plan: DownloadPlan,
    layout: Arc<Layout>,
    selected: Vec<String>,
    final_name: String,
    /// Data files that are wanted.
    files: Vec<FileIndex>,
    wanted: Bitfield,
}

impl Target {
    fn new(plan: DownloadPlan) -> Result<Self, StoreError> {
        let info = &plan.metainfo.info;
        let selected = match &plan.selection {
            Selection::Path(path) if !info.single_file => path.clone(),
            Selection::Path(path) if path.as_slice() != [info.name.as_str()] => {
                return Err(StoreError::NotSelected(path.join("/")));
            }
            _ => Vec::new(),
        };
        let name = plan.name.as_ref().or(selected.last()).unwrap_or(&info.name);
        let final_name = names::final_name(name).into_owned();
        obt_wire::files::component(final_name.as_bytes()).map_err(|_| StoreError::BadName(name.clone()))?;
        let layout = Arc::new(Layout::new(info));
        let of = |file: &FileIndex| {
            let listed = layout.file(*file).and_then(|file| info.files.get(file.listed as usize));
            listed.is_some_and(|file| file.path.starts_with(&selected))
        };
        let files: Vec<FileIndex> = layout.indices().filter(of).collect();
        if files.is_empty() {
            return Err(StoreError::NotSelected(selected.join("/")));
        }
        let wanted = wanted(&layout, &selected, &files);
        Ok(Self { layout, selected, final_name, files, wanted, plan })
    }

    fn final_path(&self) -> PathBuf {
        self.plan.folder.join(&self.final_name)
    }

    /// Whether the final name is that of a file, not a folder.
    fn is_file(&self) -> bool {
        let info = &self.plan.metainfo.info;
        let listed = self.files.first().and_then(|file| self.layout.file(*file));
        info.single_file
            || listed
                .and_then(|file| info.files.get(file.listed as usize))
                .is_some_and(|file| file.path == self.selected)
    }

    /// Pieces that have bytes of unwanted files cannot be checked against what is at the final name.
    fn has_shared_pieces(&self) -> bool {
        let unwanted = |file: FileIndex| self.files.binary_search(&file).is_err();
        !self.selected.is_empty() && self.wanted.iter().any(|piece| self.layout.files_of(piece).any(unwanted))
    }

    fn final_base(&self) -> Result<Base, StoreError> {
        let strip = if self.plan.metainfo.info.single_file { 1 } else { self.selected.len() };
        Ok(Base {
            folder: open_folder(&self.plan.folder)?,
            shown: self.plan.folder.clone(),
            prefix: vec![self.final_name.clone().into()],
            strip,
            only_below: self.selected.clone(),
        })
    }
}

fn wanted(layout: &Layout, selected: &[String], files: &[FileIndex]) -> Bitfield {
    let pieces = layout.geometry().pieces();
    if selected.is_empty() {
        return Bitfield::full(pieces);
    }
    let mut wanted = Bitfield::empty(pieces);
    for piece in files.iter().flat_map(|file| layout.pieces_of(*file)) {
        wanted.set(PieceIndex(piece));
    }
    wanted
}

/// What resuming has to work with.
struct Begun {
    data: Arc<Data>,
    stamps: Vec<Option<Stamp>>,
    record: Option<(Slot, Journal)>,
    partial: Partial,
}

pub(super) async fn download(
    disk: &Disk,
    plan: DownloadPlan,
    done: UnboundedSender<Done>,
) -> Result<(Store, Bitfield), StoreError> {
    let target = Arc::new(Target::new(plan)?);
    let old = match adopt(disk, &target, &done).await? {
        Adopted::Whole(store, have) => return Ok((store, have)),
        Adopted::Other(old) => old,
    };
    let (of, on) = (Arc::clone(&target), disk.clone());
    let begun = disk.ask(Lane::Existing, move || begin(&on, &of, done)).await.ok_or(StoreError::Stopped)??;
    let Begun { data, mut stamps, record, partial } = begun;
    let journal = record.as_ref().map(|(_, journal)| journal);
    let Resume { proven: mut have, unproven } = resume(&target.layout, journal, &stamps);
    // A file that changes while it is hashed shows that when somebody asks for it, or at the end.
    add(&mut have, &data.hash_stored(unproven.iter().collect(), AfterBad::GoOn).await?);
    // Nothing may be written over a piece that a record on disk claims.
    if let Some(old) = old.filter(|_| record.is_none()) {
        let missing: Vec<PieceIndex> = target.wanted.iter().filter(|piece| !have.has(*piece)).collect();
        add(&mut have, &data.take_from(&old, missing).await?);
        stamps = data.files.stamps();
    }
    data.set_all_have(&have);
    let unclaim = journal.is_some_and(|journal| journal.pieces.has_more_than(&have));
    let ledger = Ledger::new(Arc::clone(&target.layout), target.wanted.clone(), have.clone(), stamps, record.as_ref());
    let (name, selected) = (target.final_name.clone(), target.selected.clone());
    let growth = Growth::new(partial, name, selected, target.plan.on_existing, ledger);
    let _ = data.growth.set(growth);
    if unclaim {
        // Nothing may be written over a piece that a record on disk still claims.
        data.flush().await;
    }
    Ok((Store { data }, have))
}

fn add(have: &mut Bitfield, pieces: &Bitfield) {
    for piece in pieces.iter() {
        have.set(piece);
    }
}

/// Takes the partial folder and looks what is in it. Blocks.
fn begin(disk: &Disk, target: &Target, done: UnboundedSender<Done>) -> Result<Begun, StoreError> {
    let plan = &target.plan;
    let partial = Partial::take(&plan.folder, &target.final_name)?;
    partial.claim(&plan.metainfo, &plan.torrent)?;
    let failed = |error: io::Error| io_error("open", &partial.path(), error);
    let info = &plan.metainfo.info;
    let base = Base {
        folder: partial.inside().map_err(failed)?,
        shown: partial.path(),
        prefix: vec![names::DATA.into()],
        strip: usize::from(info.single_file),
        only_below: Vec::new(),
    };
    let renamed = if !info.single_file && partial.folds_names().map_err(failed)? {
        let components = |file: &TorrentFile| file.path.components().map(str::to_owned).collect();
        let paths: Vec<Vec<String>> = info.files.iter().map(components).collect();
        let renamed = names::unfolded(paths.iter().map(Vec::as_slice)).into_iter();
        renamed.map(|(listed, path)| (listed, path.join("/"))).collect()
    } else {
        BTreeMap::new()
    };
    let data = data(disk, &plan.metainfo, &target.layout, base, renamed, target.wanted.clone(), done, Mode::Write);
    let stamps = data.files.find_all()?;
    let size: u64 = target.files.iter().filter_map(|file| target.layout.file(*file)).map(|file| file.size).sum();
    // Memory would only be filled with zeros first.
    let plenty = obt_sys::room(partial.anchor()).is_ok_and(|room| room.free / 2 > size && !room.in_memory);
    data.files.set_preallocate(plenty && size <= PREALLOCATE_UP_TO);
    let record = partial.journal(&target.layout);
    Ok(Begun { data, stamps, record, partial })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Read,
    Write,
}

#[expect(clippy::too_many_arguments, reason = "the parts of one struct, each from another place")]
fn data(
    disk: &Disk,
    metainfo: &Arc<Metainfo>,
    layout: &Arc<Layout>,
    base: Base,
    renamed: BTreeMap<usize, String>,
    wanted: Bitfield,
    done: UnboundedSender<Done>,
    mode: Mode,
) -> Arc<Data> {
    let files = Files::new(disk, Arc::clone(metainfo), Arc::clone(layout), base, renamed, mode == Mode::Write);
    Arc::new(Data {
        disk: disk.clone(),
        hashes: PieceHashes::new(Arc::clone(metainfo), Arc::clone(layout)),
        metainfo: Arc::clone(metainfo),
        layout: Arc::clone(layout),
        files: Arc::new(files),
        have: RwLock::new(Bitfield::empty(layout.geometry().pieces())),
        wanted,
        done,
        place: Mutex::new(None),
        arrived: Mutex::default(),
        growth: OnceLock::new(),
    })
}

/// What a download finds at its final name.
enum Adopted {
    /// The content that is wanted: there is nothing to download.
    Whole(Store, Bitfield),
    /// Nothing, or what is to be replaced and may have some of it.
    Other(Option<Arc<Data>>),
}

/// What is at the final name, if it is the content that is wanted. Otherwise the name must be free, or the user must have
/// said that it may be replaced.
async fn adopt(disk: &Disk, target: &Arc<Target>, done: &UnboundedSender<Done>) -> Result<Adopted, StoreError> {
    let (of, on, tell) = (Arc::clone(target), disk.clone(), done.clone());
    let looked = disk.ask(Lane::Existing, move || look(&on, &of, tell)).await.ok_or(StoreError::Stopped)??;
    let (found, data) = match looked {
        Looked::Nothing => (Found::Nothing, None),
        Looked::Foreign => (Found::Foreign, None),
        Looked::Different(data) => (Found::Different, Some(data)),
        Looked::Alike(data) => {
            let good = data.hash_stored(target.wanted.iter().collect(), AfterBad::Stop).await?;
            let same = good == target.wanted && changed_files(&data).await?.is_empty();
            (if same { Found::Same } else { Found::Different }, Some(data))
        }
    };
    match names::place(found, target.plan.on_existing == OnExisting::Replace) {
        Place::Free | Place::Replace => Ok(Adopted::Other(data)),
        Place::Refuse if found == Found::Foreign => {
            let expected = if target.is_file() { "file" } else { "folder" };
            Err(StoreError::Unexpected { path: target.final_path(), expected })
        }
        Place::Refuse => Err(StoreError::Occupied { path: target.final_path() }),
        Place::Adopt => {
            let data = data.ok_or(StoreError::Stopped)?;
            let have = target.wanted.clone();
            data.set_all_have(&have);
            data.set_place(target.final_path());
            let of = Arc::clone(target);
            // Left by a process that died between the rename and this.
            if let Some(Err(error)) = disk.ask(Lane::Existing, move || remove_left_over(&of)).await {
                tracing::warn!(%error, "cannot remove a partial folder that is not needed any more");
            }
            Ok(Adopted::Whole(Store { data }, have))
        }
    }
}

/// What is at a final name, before any byte of it is read.
enum Looked {
    Nothing,
    Foreign,
    /// Files of other names or sizes, or whose ends cannot be checked.
    Different(Arc<Data>),
    /// Files of the right names and sizes.
    Alike(Arc<Data>),
}

fn look(disk: &Disk, target: &Target, done: UnboundedSender<Done>) -> Result<Looked, StoreError> {
    let base = target.final_base()?;
    let found = match obt_sys::stat_beneath(&base.folder, &[&target.final_name]) {
        Ok(found) => FileType::from_raw_mode(found.st_mode),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Looked::Nothing),
        Err(error) => return Err(io_error("look at", &target.final_path(), error)),
    };
    let expected = if target.is_file() { FileType::RegularFile } else { FileType::Directory };
    if found != expected {
        return Ok(Looked::Foreign);
    }
    let (metainfo, layout) = (&target.plan.metainfo, &target.layout);
    let data = data(disk, metainfo, layout, base, BTreeMap::new(), target.wanted.clone(), done, Mode::Read);
    let mut alike = !target.has_shared_pieces();
    for file in &target.files {
        let found = data.files.find(*file).map_err(|error| io_error("look at", &data.files.shown(*file), error))?;
        alike &= found.map(|found| found.size) == layout.file(*file).map(|file| file.size);
    }
    Ok(if alike { Looked::Alike(data) } else { Looked::Different(data) })
}

fn remove_left_over(target: &Target) -> Result<(), StoreError> {
    if super::partial::begun(&target.plan.folder, &target.final_name)?.is_none() {
        return Ok(());
    }
    let partial = Partial::take(&target.plan.folder, &target.final_name)?;
    partial.claim(&target.plan.metainfo, &target.plan.torrent)?;
    partial.remove().map_err(|error| io_error("remove", &partial.path(), error))
}

fn open_folder(path: &Path) -> Result<OwnedFd, StoreError> {
    Ok(OwnedFd::from(File::open(path).map_err(|error| io_error("open", path, error))?))
}

pub(super) async fn existing(
    disk: &Disk,
    root: &Path,
    metainfo: Arc<Metainfo>,
    proof: Option<Proof>,
    done: UnboundedSender<Done>,
) -> Result<(Store, Bitfield), StoreError> {
    let (root, on) = (root.to_path_buf(), disk.clone());
    let opened = disk.ask(Lane::Existing, move || open_existing(&on, &root, &metainfo, proof, done));
    let (data, Resume { proven: mut have, unproven }) = opened.await.ok_or(StoreError::Stopped)??;
    if unproven.count() > 0 {
        add(&mut have, &data.hash_stored(unproven.iter().collect(), AfterBad::GoOn).await?);
        // It may have changed before or after a piece was read.
        for file in changed_files(&data).await? {
            for piece in data.layout.pieces_of(file) {
                have.clear(PieceIndex(piece));
            }
            data.files.clear(file);
        }
    }
    data.set_all_have(&have);
    Ok((Store { data }, have))
}

/// The files that are not what they were when they were found.
async fn changed_files(data: &Arc<Data>) -> Result<Vec<FileIndex>, StoreError> {
    let of = Arc::clone(data);
    let changed = move || of.layout.indices().filter(|file| !of.files.is_unchanged(*file, 0)).collect();
    data.disk.ask(Lane::Existing, changed).await.ok_or(StoreError::Stopped)
}

fn open_existing(
    disk: &Disk,
    root: &Path,
    metainfo: &Arc<Metainfo>,
    proof: Option<Proof>,
    done: UnboundedSender<Done>,
) -> Result<(Arc<Data>, Resume), StoreError> {
    let info = &metainfo.info;
    let layout = Arc::new(Layout::new(info));
    // What the user names may be a link; what is below it may not.
    let root = root.canonicalize().map_err(|error| io_error("open", root, error))?;
    let kind = root.metadata().map_err(|error| io_error("open", &root, error))?;
    if info.single_file != kind.is_file() || info.single_file == kind.is_dir() {
        let expected = if info.single_file { "file" } else { "folder" };
        return Err(StoreError::Unexpected { path: root, expected });
    }
    let base = if info.single_file {
        let (folder, name) = root.parent().zip(root.file_name()).ok_or_else(|| StoreError::BadName(String::new()))?;
        let prefix = vec![name.to_owned()];
        Base { folder: open_folder(folder)?, shown: folder.into(), prefix, strip: 1, only_below: Vec::new() }
    } else {
        let (prefix, only_below) = (Vec::new(), Vec::new());
        Base { folder: open_folder(&root)?, shown: root.clone(), prefix, strip: 0, only_below }
    };
    let wanted = Bitfield::full(layout.geometry().pieces());
    let data = data(disk, metainfo, &layout, base, BTreeMap::new(), wanted, done, Mode::Read);
    data.set_place(root);
    let mut stamps = data.files.find_all()?;
    for (stamp, file) in stamps.iter_mut().zip(layout.files()) {
        stamp.take_if(|stamp| stamp.size != file.size);
    }
    let record = proof.and_then(|proof| journal::decode(&layout, proof.as_bytes()).ok());
    let resume = resume(&layout, record.as_ref(), &stamps);
    Ok((data, resume))
}
