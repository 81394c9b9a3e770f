//! Where things lie unless a flag says otherwise.

/// The agent's API socket.
pub const SOCKET: &str = "/var/run/oxilium/oxilium.sock";
/// Where the CNI plugin leaves word of containers that went away while the agent was down.
pub const TOMBSTONES: &str = "/var/run/oxilium/deleted";
/// What must outlive the agent: attachments, claims, admitted objects.
pub const STATE: &str = "/var/lib/oxilium";
/// Root of the BPF file system.
pub const BPF_ROOT: &str = "/sys/fs/bpf";
