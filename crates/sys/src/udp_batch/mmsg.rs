//! `recvmmsg` and `sendmmsg` of Linux, with the address that each datagram reached.
//!
//! The structures are those of the kernel on 64-bit little-endian machines, which the C libraries pass through.
//!
//! Unsafe code: three calls into the C library. Each gets pointers into memory that is borrowed mutably, and not used
//! otherwise, for as long as the call lasts, with the lengths of that memory. Nothing is read that was not initialised:
//! all of it is zeroed when it is made.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_uint, c_void};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd;
use std::ptr::null_mut;

use super::{BATCH, REPLY_BYTES, REQUEST_BYTES, Received};

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const IPPROTO_IP: c_int = 0;
const IPPROTO_IPV6: c_int = 41;
const IP_PKTINFO: c_int = 8;
const IP_MTU_DISCOVER: c_int = 10;
const IP_PMTUDISC_PROBE: c_int = 3;
const IPV6_RECVPKTINFO: c_int = 49;
const IPV6_PKTINFO: c_int = 50;
/// Return when there is something, with all that there is.
const MSG_WAITFORONE: c_int = 0x10000;
const ENOSYS: i32 = 38;
const EPERM: i32 = 1;

#[repr(C)]
#[derive(Clone, Copy)]
struct Slice {
    base: *mut u8,
    length: usize,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Head {
    name: *mut Name,
    name_length: u32,
    slices: *mut Slice,
    slice_count: usize,
    control: *mut Control,
    control_length: usize,
    flags: c_int,
    /// The end of a `msghdr`.
    padding: c_int,
    /// Bytes that came or went: the field that makes a `msghdr` an `mmsghdr`.
    length: c_uint,
}

const _: () = assert!(size_of::<Head>() == 64 && std::mem::offset_of!(Head, length) == 56);

/// A `sockaddr_in` or `sockaddr_in6`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Default)]
struct Name([u8; 32]);

/// Control messages: a header of 16 bytes, and at most the 20 of an `in6_pktinfo`.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; 64]);

const CONTROL_HEADER: usize = 16;

unsafe extern "C" {
    fn recvmmsg(socket: c_int, heads: *mut Head, count: c_uint, flags: c_int, timeout: *mut c_void) -> c_int;
    fn sendmmsg(socket: c_int, heads: *mut Head, count: c_uint, flags: c_int) -> c_int;
    fn setsockopt(socket: c_int, level: c_int, name: c_int, value: *const c_void, length: u32) -> c_int;
}

/// Asks the kernel to say of each datagram which address it was sent to.
pub(super) fn tell_reached(socket: &UdpSocket, v6: bool) -> io::Result<()> {
    if v6 { set(socket, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1) } else { set(socket, IPPROTO_IP, IP_PKTINFO, 1) }
}

/// Says that no answer is ever to be cut up on its way. Then the kernel need not number IPv4 datagrams, which it does with
/// a hash and a shared counter for each, nor believe strangers who say that a path takes less.
pub(super) fn keep_whole(socket: &UdpSocket) -> io::Result<()> {
    set(socket, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE)
}

fn set(socket: &UdpSocket, level: c_int, name: c_int, value: c_int) -> io::Result<()> {
    // SAFETY: the value is an int that lives until the call returns, and its length is that of an int.
    let done = unsafe { setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), 4) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What a batch needs beside its bytes.
pub(super) struct Heads {
    names: [Name; BATCH],
    controls: [Control; BATCH],
}

impl Default for Heads {
    fn default() -> Self {
        Self { names: [Name::default(); BATCH], controls: [Control([0; 64]); BATCH] }
    }
}

/// An answer that is ready: the number of its datagram, and its length.
type Ready = (usize, usize);

impl Heads {
    /// See [`super::UdpBatch::answer`].
    pub(super) fn answer(
        &mut self,
        socket: &UdpSocket,
        requests: &mut [[u8; REQUEST_BYTES]],
        replies: &mut [[u8; REPLY_BYTES]],
        respond: &mut impl FnMut(&Received<'_>, &mut [u8]) -> Option<usize>,
    ) -> io::Result<usize> {
        let mut lengths = [(0, 0); BATCH];
        let count = self.receive(socket, requests, &mut lengths)?;
        let mut ready: [Ready; BATCH] = [(0, 0); BATCH];
        let mut ready_count = 0;
        let came = requests.iter().zip(replies.iter_mut()).zip(lengths).zip(&mut self.names).zip(&mut self.controls);
        for (at, ((((request, reply), (length, control_length)), name), control)) in came.take(count).enumerate() {
            let Some(source) = source(name) else {
                continue;
            };
            let reached = reached(control, control_length);
            control.answer_from(reached, source);
            let received = Received { bytes: request.get(..length).unwrap_or_default(), source, reached };
            if let Some(length) = respond(&received, reply) {
                ready[ready_count] = (at, length.min(REPLY_BYTES));
                ready_count += 1;
            }
        }
        self.send(socket, replies, &ready[..ready_count]);
        Ok(count)
    }

    /// Receives a batch: says how many came and, for each, how long it and its control messages are.
    fn receive(
        &mut self,
        socket: &UdpSocket,
        requests: &mut [[u8; REQUEST_BYTES]],
        lengths: &mut [(usize, usize); BATCH],
    ) -> io::Result<usize> {
        let mut slices = [Slice { base: null_mut(), length: 0 }; BATCH];
        let mut heads = [EMPTY; BATCH];
        let room = requests.iter_mut().zip(&mut slices).zip(&mut heads).zip(&mut self.names).zip(&mut self.controls);
        let mut count: c_uint = 0;
        for ((((request, slice), head), name), control) in room {
            *slice = Slice { base: request.as_mut_ptr(), length: REQUEST_BYTES };
            *head = Head {
                name,
                name_length: 32,
                slices: slice,
                slice_count: 1,
                control,
                control_length: size_of::<Control>(),
                ..EMPTY
            };
            count += 1;
        }
        // SAFETY: `heads` has `count` entries; each points to a name, a control block and one slice of bytes of its own,
        // which are borrowed mutably until the end of this function, with their lengths.
        let came = unsafe { recvmmsg(socket.as_raw_fd(), heads.as_mut_ptr(), count, MSG_WAITFORONE, null_mut()) };
        let came = usize::try_from(came).map_err(|_| {
            let error = io::Error::last_os_error();
            // Both are what sandboxes answer to calls that they do not know.
            let unknown = matches!(error.raw_os_error(), Some(ENOSYS | EPERM));
            if unknown { io::ErrorKind::Unsupported.into() } else { error }
        })?;
        for (length, head) in lengths.iter_mut().zip(&heads).take(came) {
            *length = (head.length as usize, head.control_length);
        }
        Ok(came.min(BATCH))
    }

    fn send(&mut self, socket: &UdpSocket, replies: &mut [[u8; REPLY_BYTES]], ready: &[Ready]) {
        let mut slices = [Slice { base: null_mut(), length: 0 }; BATCH];
        let mut heads = [EMPTY; BATCH];
        let mut count = 0;
        for ((at, length), (slice, head)) in ready.iter().zip(slices.iter_mut().zip(&mut heads)) {
            let (Some(reply), Some(name), Some(control)) =
                (replies.get_mut(*at), self.names.get_mut(*at), self.controls.get_mut(*at))
            else {
                continue;
            };
            *slice = Slice { base: reply.as_mut_ptr(), length: (*length).min(REPLY_BYTES) };
            let (name_length, control_length) = (name.length(), control.length());
            *head = Head { name, name_length, slices: slice, slice_count: 1, control, control_length, ..EMPTY };
            count += 1;
        }
        let mut sent = 0;
        while sent < count {
            let Some(rest) = heads.get_mut(sent..count) else {
                return;
            };
            let rest_count = c_uint::try_from(rest.len()).unwrap_or(0);
            // SAFETY: `rest` has `rest_count` entries; each points to a name, a control block and one slice of bytes,
            // which are borrowed mutably until the end of this function, with their lengths.
            let done = unsafe { sendmmsg(socket.as_raw_fd(), rest.as_mut_ptr(), rest_count, 0) };
            // An error is that of the first datagram of the rest: it is lost, and the others go on.
            sent += usize::try_from(done).unwrap_or(0).max(1);
        }
    }
}

const EMPTY: Head = Head {
    name: null_mut(),
    name_length: 0,
    slices: null_mut(),
    slice_count: 0,
    control: null_mut(),
    control_length: 0,
    flags: 0,
    padding: 0,
    length: 0,
};

impl Name {
    fn family(&self) -> u16 {
        u16::from_ne_bytes([self.0[0], self.0[1]])
    }

    fn length(&self) -> u32 {
        if self.family() == AF_INET { 16 } else { 28 }
    }
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

fn source(name: &Name) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(field(&name.0, 2)?);
    match name.family() {
        AF_INET => Some(SocketAddrV4::new(Ipv4Addr::from(field::<4>(&name.0, 4)?), port).into()),
        AF_INET6 => {
            let flow = u32::from_be_bytes(field(&name.0, 4)?);
            let scope = u32::from_ne_bytes(field(&name.0, 24)?);
            Some(SocketAddrV6::new(Ipv6Addr::from(field::<16>(&name.0, 8)?), port, flow, scope).into())
        }
        _ => None,
    }
}

/// The address of ours in the first control message, the only one that was asked for.
fn reached(control: &Control, length: usize) -> Option<IpAddr> {
    let bytes = control.0.get(..length)?;
    let level = c_int::from_ne_bytes(field(bytes, 8)?);
    let kind = c_int::from_ne_bytes(field(bytes, 12)?);
    match (level, kind) {
        // in_pktinfo: interface, our address, the header's address.
        (IPPROTO_IP, IP_PKTINFO) => Some(IpAddr::from(field::<4>(bytes, CONTROL_HEADER + 4)?)),
        // in6_pktinfo: the header's address, interface.
        (IPPROTO_IPV6, IPV6_PKTINFO) => {
            let ip = Ipv6Addr::from(field::<16>(bytes, CONTROL_HEADER)?);
            (!ip.is_multicast()).then_some(IpAddr::V6(ip))
        }
        _ => None,
    }
}

impl Control {
    /// Turns it into the message that makes the answer go out from `reached`, as the asker expects. The interface is
    /// left to routing, but where the address alone does not say which link it is on.
    fn answer_from(&mut self, reached: Option<IpAddr>, source: SocketAddr) {
        let interface: [u8; 4] = match source {
            SocketAddr::V6(source) => source.scope_id().to_ne_bytes(),
            SocketAddr::V4(_) => [0; 4],
        };
        let mut bytes = [0; 64];
        let (length, level, kind) = match reached {
            None => (0, 0, 0),
            Some(IpAddr::V4(ip)) => {
                bytes[CONTROL_HEADER + 4..CONTROL_HEADER + 8].copy_from_slice(&ip.octets());
                (CONTROL_HEADER + 12, IPPROTO_IP, IP_PKTINFO)
            }
            Some(IpAddr::V6(ip)) => {
                bytes[CONTROL_HEADER..CONTROL_HEADER + 16].copy_from_slice(&ip.octets());
                bytes[CONTROL_HEADER + 16..CONTROL_HEADER + 20].copy_from_slice(&interface);
                (CONTROL_HEADER + 20, IPPROTO_IPV6, IPV6_PKTINFO)
            }
        };
        bytes[..8].copy_from_slice(&length.to_ne_bytes());
        bytes[8..12].copy_from_slice(&level.to_ne_bytes());
        bytes[12..16].copy_from_slice(&kind.to_ne_bytes());
        self.0 = bytes;
    }

    /// Bytes that it takes, its padding included.
    fn length(&self) -> usize {
        let length = usize::from_ne_bytes(field(&self.0, 0).unwrap_or_default());
        length.next_multiple_of(8).min(size_of::<Self>())
    }
}
