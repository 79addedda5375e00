//! Every request, one by one: what is looked at before it is passed on, and after.

use std::ffi::CStr;
use std::io;
use std::time::Duration;

use virtiofsd::filesystem::{
    Context, Entry, Extensions, FileSystem, FsOptions, GetxattrReply, ListxattrReply, OpenOptions, SetattrValid,
    SetxattrFlags, ZeroCopyReader, ZeroCopyWriter,
};
use virtiofsd::fuse::{Attr, SetattrIn};

use super::rules::{self, Kind, errno};
use super::{Access, Guarded, Owners};

impl<F: FileSystem<Inode = u64, Handle = u64>> FileSystem for Guarded<F> {
    type Inode = u64;
    type Handle = u64;
    type DirIter = F::DirIter;

    fn init(&self, capable: FsOptions) -> io::Result<FsOptions> {
        self.closed.clear();
        self.inner.init(rules::options(capable, self.owners == Owners::Passthrough))
    }

    fn destroy(&self) {
        self.inner.destroy();
        self.closed.clear();
    }

    fn lookup(&self, ctx: Context, parent: u64, name: &CStr) -> io::Result<Entry> {
        self.must_admit(parent, name)?;
        let entry = self.inner.lookup(self.context(ctx), parent, name)?;
        self.entry(ctx, entry)
    }

    fn forget(&self, ctx: Context, inode: u64, count: u64) {
        self.inner.forget(ctx, inode, count);
        self.closed.forget(inode, || self.inner.getattr(ctx, inode, None).is_ok());
    }

    fn batch_forget(&self, ctx: Context, requests: Vec<(u64, u64)>) {
        let closed: Vec<u64> =
            requests.iter().map(|(inode, _)| *inode).filter(|inode| self.closed.has(*inode)).collect();
        self.inner.batch_forget(ctx, requests);
        for inode in closed {
            self.closed.forget(inode, || self.inner.getattr(ctx, inode, None).is_ok());
        }
    }

    fn getattr(&self, ctx: Context, inode: u64, handle: Option<u64>) -> io::Result<(Attr, Duration)> {
        let (attr, timeout) = self.inner.getattr(self.context(ctx), inode, handle)?;
        Ok((self.shown(attr), timeout))
    }

    fn setattr(
        &self,
        ctx: Context,
        inode: u64,
        mut attr: SetattrIn,
        handle: Option<u64>,
        valid: SetattrValid,
    ) -> io::Result<(Attr, Duration)> {
        self.must_be_writable()?;
        self.must_be_safe_to_open(ctx, inode)?;
        let valid = self.owner_change(&attr, valid)?;
        let now = self.mode(ctx, inode)?;
        let kind = Kind::of(now);
        if kind == Kind::Device && valid.intersects(SetattrValid::MODE | SetattrValid::UID | SetattrValid::GID) {
            return Err(errno(libc::EPERM));
        }
        if valid.contains(SetattrValid::SIZE) && kind != Kind::Regular {
            return Err(errno(if kind == Kind::Directory { libc::EISDIR } else { libc::EINVAL }));
        }
        rules::nanoseconds(attr.atimensec)?;
        rules::nanoseconds(attr.mtimensec)?;
        attr.mode = rules::changed_mode(attr.mode, now);
        attr.valid = valid.bits();
        let (attr, timeout) = self.inner.setattr(self.context(ctx), inode, attr, handle, valid)?;
        Ok((self.shown(attr), timeout))
    }

    fn readlink(&self, ctx: Context, inode: u64) -> io::Result<Vec<u8>> {
        self.inner.readlink(self.context(ctx), inode)
    }

    fn symlink(
        &self,
        ctx: Context,
        linkname: &CStr,
        parent: u64,
        name: &CStr,
        extensions: Extensions,
    ) -> io::Result<Entry> {
        self.must_admit_change(parent, name)?;
        let extensions = self.extensions(extensions)?;
        let entry = self.inner.symlink(self.context(ctx), linkname, parent, name, extensions)?;
        self.entry(ctx, entry)
    }

    fn mknod(
        &self,
        ctx: Context,
        parent: u64,
        name: &CStr,
        mode: u32,
        _rdev: u32,
        umask: u32,
        extensions: Extensions,
    ) -> io::Result<Entry> {
        self.must_admit_change(parent, name)?;
        let mode = rules::made_mode(mode)?;
        let extensions = self.extensions(extensions)?;
        let entry = self.inner.mknod(self.context(ctx), parent, name, mode, 0, umask, extensions)?;
        self.entry(ctx, entry)
    }

    fn mkdir(
        &self,
        ctx: Context,
        parent: u64,
        name: &CStr,
        mode: u32,
        umask: u32,
        extensions: Extensions,
    ) -> io::Result<Entry> {
        self.must_admit_change(parent, name)?;
        let extensions = self.extensions(extensions)?;
        let mode = rules::new_mode(mode);
        let entry = self.inner.mkdir(self.context(ctx), parent, name, mode, umask, extensions)?;
        self.entry(ctx, entry)
    }

    fn unlink(&self, ctx: Context, parent: u64, name: &CStr) -> io::Result<()> {
        self.must_admit_change(parent, name)?;
        self.inner.unlink(self.context(ctx), parent, name)
    }

    fn rmdir(&self, ctx: Context, parent: u64, name: &CStr) -> io::Result<()> {
        self.must_admit_change(parent, name)?;
        self.inner.rmdir(self.context(ctx), parent, name)
    }

    fn rename(
        &self,
        ctx: Context,
        olddir: u64,
        oldname: &CStr,
        newdir: u64,
        newname: &CStr,
        flags: u32,
    ) -> io::Result<()> {
        self.must_admit_change(olddir, oldname)?;
        self.must_admit_change(newdir, newname)?;
        rules::rename_flags(flags)?;
        self.inner.rename(self.context(ctx), olddir, oldname, newdir, newname, flags)
    }

    fn link(&self, ctx: Context, inode: u64, newparent: u64, newname: &CStr) -> io::Result<Entry> {
        self.must_admit_change(newparent, newname)?;
        let entry = self.inner.link(self.context(ctx), inode, newparent, newname)?;
        self.entry(ctx, entry)
    }

    fn open(&self, ctx: Context, inode: u64, kill_priv: bool, flags: u32) -> io::Result<(Option<u64>, OpenOptions)> {
        self.must_be_safe_to_open(ctx, inode)?;
        let flags = rules::open_flags(flags, self.access == Access::ReadWrite)?;
        self.inner.open(self.context(ctx), inode, kill_priv, flags)
    }

    fn create(
        &self,
        ctx: Context,
        parent: u64,
        name: &CStr,
        mode: u32,
        kill_priv: bool,
        flags: u32,
        umask: u32,
        extensions: Extensions,
    ) -> io::Result<(Entry, Option<u64>, OpenOptions)> {
        self.must_admit(parent, name)?;
        if self.access == Access::ReadOnly {
            let opened = self.open_existing(ctx, parent, name, kill_priv, flags);
            return opened.map_err(|e| if e.kind() == io::ErrorKind::NotFound { errno(libc::EROFS) } else { e });
        }
        let extensions = self.extensions(extensions)?;
        let (mode, flags) = (rules::new_mode(mode), rules::create_flags(flags)?);
        // What is there already is opened as anything else is: the file system behind would not look at what it is.
        let exclusive = libc::O_EXCL.cast_unsigned();
        let created =
            self.inner.create(self.context(ctx), parent, name, mode, kill_priv, flags | exclusive, umask, extensions);
        let (entry, handle, options) = match created {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && flags & exclusive == 0 => {
                return self.open_existing(ctx, parent, name, kill_priv, flags);
            }
            created => created?,
        };
        // The host may have put something else there before it was looked up.
        let inode = entry.inode;
        let checked = self.entry(ctx, entry).and_then(|entry| match self.must_be_open(inode) {
            Ok(()) => Ok(entry),
            Err(error) => {
                self.forget(ctx, inode, 1);
                Err(error)
            }
        });
        if let (Err(_), Some(handle)) = (&checked, handle) {
            // There is nobody else to tell of a handle that is none.
            let _ = self.inner.release(ctx, inode, flags, handle, false, false, None);
        }
        Ok((checked?, handle, options))
    }

    fn read<W: ZeroCopyWriter>(
        &self,
        ctx: Context,
        inode: u64,
        handle: u64,
        w: W,
        size: u32,
        offset: u64,
        lock_owner: Option<u64>,
        flags: u32,
    ) -> io::Result<usize> {
        rules::range(offset, size)?;
        self.inner.read(ctx, inode, handle, w, size, offset, lock_owner, flags)
    }

    fn write<R: ZeroCopyReader>(
        &self,
        ctx: Context,
        inode: u64,
        handle: u64,
        r: R,
        size: u32,
        offset: u64,
        lock_owner: Option<u64>,
        delayed_write: bool,
        kill_priv: bool,
        flags: u32,
    ) -> io::Result<usize> {
        self.must_be_writable()?;
        rules::range(offset, size)?;
        self.inner.write(ctx, inode, handle, r, size, offset, lock_owner, delayed_write, kill_priv, flags)
    }

    fn flush(&self, ctx: Context, inode: u64, handle: u64, lock_owner: u64) -> io::Result<()> {
        self.inner.flush(ctx, inode, handle, lock_owner)
    }

    fn fsync(&self, ctx: Context, inode: u64, datasync: bool, handle: u64) -> io::Result<()> {
        self.inner.fsync(ctx, inode, datasync, handle)
    }

    fn fallocate(&self, ctx: Context, inode: u64, handle: u64, mode: u32, offset: u64, length: u64) -> io::Result<()> {
        self.must_be_writable()?;
        self.inner.fallocate(ctx, inode, handle, mode, offset, length)
    }

    fn release(
        &self,
        ctx: Context,
        inode: u64,
        flags: u32,
        handle: u64,
        flush: bool,
        flock_release: bool,
        lock_owner: Option<u64>,
    ) -> io::Result<()> {
        self.inner.release(ctx, inode, flags, handle, flush, flock_release, lock_owner)
    }

    fn statfs(&self, ctx: Context, inode: u64) -> io::Result<libc::statvfs64> {
        self.inner.statfs(ctx, inode)
    }

    fn setxattr(
        &self,
        ctx: Context,
        inode: u64,
        name: &CStr,
        value: &[u8],
        flags: u32,
        extra_flags: SetxattrFlags,
    ) -> io::Result<()> {
        self.must_be_writable()?;
        rules::attribute(name)?;
        self.must_be_safe_to_open(ctx, inode)?;
        self.inner.setxattr(self.context(ctx), inode, name, value, flags, extra_flags)
    }

    fn getxattr(&self, ctx: Context, inode: u64, name: &CStr, size: u32) -> io::Result<GetxattrReply> {
        rules::attribute(name)?;
        self.must_be_safe_to_open(ctx, inode)?;
        self.inner.getxattr(self.context(ctx), inode, name, size.min(rules::ATTRIBUTE_MAX))
    }

    fn listxattr(&self, ctx: Context, inode: u64, size: u32) -> io::Result<ListxattrReply> {
        self.must_be_safe_to_open(ctx, inode)?;
        // How many bytes are listed is known when they are: what is left out must not be counted.
        let ListxattrReply::Names(all) = self.inner.listxattr(self.context(ctx), inode, rules::ATTRIBUTE_MAX)? else {
            return Err(errno(libc::EIO));
        };
        let names = rules::attributes(&all);
        let length = u32::try_from(names.len()).unwrap_or(u32::MAX);
        match size {
            0 => Ok(ListxattrReply::Count(length)),
            _ if length <= size => Ok(ListxattrReply::Names(names)),
            _ => Err(errno(libc::ERANGE)),
        }
    }

    fn removexattr(&self, ctx: Context, inode: u64, name: &CStr) -> io::Result<()> {
        self.must_be_writable()?;
        rules::attribute(name)?;
        self.must_be_safe_to_open(ctx, inode)?;
        self.inner.removexattr(self.context(ctx), inode, name)
    }

    fn opendir(&self, ctx: Context, inode: u64, flags: u32) -> io::Result<(Option<u64>, OpenOptions)> {
        self.must_be_open(inode)?;
        // A directory is only read, whoever may write to the share.
        let flags = rules::open_flags(flags, false)?;
        self.inner.opendir(self.context(ctx), inode, flags)
    }

    fn readdir(&self, ctx: Context, inode: u64, handle: u64, size: u32, offset: u64) -> io::Result<Self::DirIter> {
        self.must_be_open(inode)?;
        self.inner.readdir(ctx, inode, handle, size, offset)
    }

    fn fsyncdir(&self, ctx: Context, inode: u64, datasync: bool, handle: u64) -> io::Result<()> {
        self.must_be_open(inode)?;
        self.inner.fsyncdir(ctx, inode, datasync, handle)
    }

    fn releasedir(&self, ctx: Context, inode: u64, flags: u32, handle: u64) -> io::Result<()> {
        self.inner.releasedir(ctx, inode, flags, handle)
    }

    fn access(&self, ctx: Context, inode: u64, mask: u32) -> io::Result<()> {
        if mask & libc::W_OK.cast_unsigned() != 0 {
            self.must_be_writable()?;
        }
        self.inner.access(self.context(ctx), inode, mask)
    }

    fn lseek(&self, ctx: Context, inode: u64, handle: u64, offset: u64, whence: u32) -> io::Result<u64> {
        self.inner.lseek(ctx, inode, handle, offset, whence)
    }

    fn copyfilerange(
        &self,
        ctx: Context,
        inode_in: u64,
        handle_in: u64,
        offset_in: u64,
        inode_out: u64,
        handle_out: u64,
        offset_out: u64,
        len: u64,
        flags: u64,
    ) -> io::Result<usize> {
        self.must_be_writable()?;
        let len = len.min(rules::COPY_MAX);
        self.inner.copyfilerange(ctx, inode_in, handle_in, offset_in, inode_out, handle_out, offset_out, len, flags)
    }

    fn syncfs(&self, ctx: Context, inode: u64) -> io::Result<()> {
        if self.access == Access::ReadOnly {
            // It has written nothing; and what others have is theirs to wait for.
            return Ok(());
        }
        self.must_be_safe_to_open(ctx, inode)?;
        self.inner.syncfs(ctx, inode)
    }
}
