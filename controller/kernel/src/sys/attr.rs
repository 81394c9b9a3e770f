//! The parts of `union bpf_attr` (linux/bpf.h) that are used. All fields are zero where not set.
//!
//! Each is `IntoBytes`, which a type with padding cannot be: the kernel reads every byte, and refuses one that is not
//! zero behind the last field that it knows.

use zerocopy::{Immutable, IntoBytes};

/// `BPF_MAP_CREATE`.
#[derive(Default, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct MapCreate {
    pub map_type: u32,
    pub key_size: u32,
    pub value_size: u32,
    pub max_entries: u32,
    pub map_flags: u32,
    pub inner_map_fd: u32,
    pub numa_node: u32,
    pub map_name: [u8; 16],
    pub map_ifindex: u32,
    pub btf_fd: u32,
    pub btf_key_type_id: u32,
    pub btf_value_type_id: u32,
}

/// `BPF_MAP_*_ELEM`, `BPF_MAP_GET_NEXT_KEY` (whose `next_key` stands where `value` does), `BPF_MAP_FREEZE`.
#[derive(Default, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct MapElement {
    pub map_fd: u32,
    pub pad: u32,
    pub key: u64,
    pub value: u64,
    pub flags: u64,
}

/// `BPF_MAP_*_BATCH`.
#[derive(Default, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct MapBatch {
    pub in_batch: u64,
    pub out_batch: u64,
    pub keys: u64,
    pub values: u64,
    pub count: u32,
    pub map_fd: u32,
    pub elem_flags: u64,
    pub flags: u64,
}

/// `BPF_PROG_LOAD`.
#[derive(Default, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct ProgLoad {
    pub prog_type: u32,
    pub insn_cnt: u32,
    pub insns: u64,
    pub license: u64,
    pub log_level: u32,
    pub log_size: u32,
    pub log_buf: u64,
    pub kern_version: u32,
    pub prog_flags: u32,
    pub prog_name: [u8; 16],
    pub prog_ifindex: u32,
    pub expected_attach_type: u32,
    pub prog_btf_fd: u32,
    pub func_info_rec_size: u32,
    pub func_info: u64,
    pub func_info_cnt: u32,
    pub line_info_rec_size: u32,
    pub line_info: u64,
    pub line_info_cnt: u32,
    pub attach_btf_id: u32,
}

/// `BPF_PROG_TEST_RUN`.
#[derive(Default, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct ProgTestRun {
    pub prog_fd: u32,
    pub retval: u32,
    pub data_size_in: u32,
    pub data_size_out: u32,
    pub data_in: u64,
    pub data_out: u64,
    pub repeat: u32,
    pub duration: u32,
    pub ctx_size_in: u32,
    pub ctx_size_out: u32,
    pub ctx_in: u64,
    pub ctx_out: u64,
    pub flags: u32,
    pub cpu: u32,
    pub batch_size: u32,
    /// The kernel wants all bytes behind its fields zero.
    pub pad: u32,
}

/// `struct __sk_buff` up to the last field that a test run takes from it.
#[derive(Default, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct SkBuff {
    /// From `len` to `priority`: left zero.
    pub before: [u32; 9],
    pub ingress_ifindex: u32,
    pub ifindex: u32,
}

/// `BPF_OBJ_PIN`, `BPF_OBJ_GET`.
#[derive(Default, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct Object {
    pub pathname: u64,
    pub bpf_fd: u32,
    pub file_flags: u32,
}

/// `BPF_*_GET_FD_BY_ID`.
#[derive(Default, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct ById {
    pub id: u32,
    pub next_id: u32,
    pub open_flags: u32,
}

/// `BPF_OBJ_GET_INFO_BY_FD`.
#[derive(Default, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct ObjectInfo {
    pub bpf_fd: u32,
    pub info_len: u32,
    pub info: u64,
}

/// `BPF_BTF_LOAD`.
#[derive(Default, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct BtfLoad {
    pub btf: u64,
    pub btf_log_buf: u64,
    pub btf_size: u32,
    pub btf_log_size: u32,
    pub btf_log_level: u32,
    /// Set by the kernel, since Linux 6.4.
    pub btf_log_true_size: u32,
}

/// `BPF_LINK_CREATE` of a tcx link.
#[derive(Default, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct LinkCreateTcx {
    pub prog_fd: u32,
    pub target_ifindex: u32,
    pub attach_type: u32,
    pub flags: u32,
    pub relative: u32,
    pub pad: u32,
    pub expected_revision: u64,
}

/// `BPF_LINK_UPDATE`.
#[derive(Default, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct LinkUpdate {
    pub link_fd: u32,
    pub new_prog_fd: u32,
    pub flags: u32,
    pub old_prog_fd: u32,
}

/// `BPF_LINK_DETACH`.
#[derive(Default, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct LinkDetach {
    pub link_fd: u32,
}

/// `BPF_PROG_DETACH`.
#[derive(Default, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct ProgDetach {
    pub target_ifindex: u32,
    pub attach_bpf_fd: u32,
    pub attach_type: u32,
    pub attach_flags: u32,
    pub replace_bpf_fd: u32,
    pub relative: u32,
    pub expected_revision: u64,
}

/// `BPF_PROG_QUERY`.
#[derive(Default, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct ProgQuery {
    pub target_ifindex: u32,
    pub attach_type: u32,
    pub query_flags: u32,
    pub attach_flags: u32,
    pub prog_ids: u64,
    pub count: u32,
    pub pad: u32,
    pub prog_attach_flags: u64,
    pub link_ids: u64,
    pub link_attach_flags: u64,
    pub revision: u64,
}

/// `struct bpf_map_info`.
#[derive(Default, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct MapInfo {
    pub map_type: u32,
    pub id: u32,
    pub key_size: u32,
    pub value_size: u32,
    pub max_entries: u32,
    pub map_flags: u32,
    pub name: [u8; 16],
    pub ifindex: u32,
    pub btf_vmlinux_value_type_id: u32,
    pub netns_dev: u64,
    pub netns_ino: u64,
    pub btf_id: u32,
    pub btf_key_type_id: u32,
    pub btf_value_type_id: u32,
    pub pad: u32,
}

/// `struct bpf_btf_info`, up to what the kernel's own have.
#[derive(Default, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct BtfInfo {
    pub btf: u64,
    pub btf_size: u32,
    pub id: u32,
}

/// `struct bpf_prog_info`, up to the names.
#[derive(Default, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct ProgInfo {
    pub prog_type: u32,
    pub id: u32,
    pub tag: [u8; 8],
    pub jited_prog_len: u32,
    pub xlated_prog_len: u32,
    pub jited_prog_insns: u64,
    pub xlated_prog_insns: u64,
    pub load_time: u64,
    pub created_by_uid: u32,
    pub nr_map_ids: u32,
    pub map_ids: u64,
    pub name: [u8; 16],
}

/// `struct bpf_link_info` of a tcx link.
#[derive(Default, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct LinkInfo {
    pub link_type: u32,
    pub id: u32,
    pub prog_id: u32,
    pub pad: u32,
    pub ifindex: u32,
    pub attach_type: u32,
    /// Other kinds of links have more to tell; a buffer for it keeps the kernel from complaining.
    pub rest: [u64; 12],
}
