//! What the datapath asks of a packet.

use zerocopy::FromBytes;

/// A packet at a hook, from its link-layer header on.
#[expect(clippy::len_without_is_empty, reason = "no packet is empty")]
pub trait Packet: Copy {
    /// Length in bytes, also of what is not in the linear part.
    fn len(self) -> u32;

    /// Reads a header at `offset`; none where the packet ends before it does.
    fn load<T: FromBytes>(self, offset: u32) -> Option<T>;

    /// The same, for use in loops: slower, and easier for the verifier, which then need not know `offset`.
    fn load_in_loop<T: FromBytes>(self, offset: u32) -> Option<T> {
        self.load(offset)
    }

    /// Writes bytes at `offset`; false where the packet ends before they do, or cannot be written to.
    fn store<const N: usize>(self, offset: u32, bytes: [u8; N]) -> bool;

    /// Brings the IPv4 header checksum at `offset` in line with a change of what it covers; `difference` is
    /// the ones' complement sum of the new words and of the complements of the old ones.
    fn fix_l3(self, offset: u32, difference: u32) -> bool;

    /// The same for a TCP, UDP or ICMP checksum. `pseudo`: what changed is in the pseudo-header. `udp`: 0 is no checksum
    /// and stays 0.
    fn fix_l4(self, offset: u32, difference: u32, pseudo: bool, udp: bool) -> bool;

    /// Makes it a packet that whoever receives it takes for its own, whatever its link-layer destination is; false where it
    /// cannot be.
    fn make_received(self) -> bool;

    /// Interface that the hook is on.
    fn ifindex(self) -> u32;

    /// Interface that the packet came in through; 0 for one that this host made.
    fn ingress_ifindex(self) -> u32;

    /// A VLAN tag that the kernel has taken out of the bytes.
    fn vlan_present(self) -> bool;

    /// Whether the packet is to be cut into segments later; then its headers may not tell its length.
    fn is_gso(self) -> bool;
}
