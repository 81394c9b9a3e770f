//! Why a packet was dropped.

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $number:literal, $text:literal;)+) => {
        /// Why a packet was dropped. Up to 209 the numbers are those of Cilium's flow API
        /// (`flow.DropReason`), so that its clients name them; from 210 on they are ours.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $name = $number,)+
        }

        impl DropReason {
            /// Every reason.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The reason of this number.
            pub const fn from_number(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)+
                    _ => None,
                }
            }

            /// Text for people; Cilium's where the number is Cilium's.
            pub const fn text(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)+
                }
            }
        }
    };
}

reasons! {
    /// Source MAC address is not the endpoint's.
    InvalidSourceMac = 130, "Invalid source mac";
    /// Source address is not the endpoint's.
    InvalidSourceIp = 132, "Invalid source ip";
    /// No policy entry allows it.
    PolicyDenied = 133, "Policy denied";
    /// The network header contradicts itself.
    InvalidPacket = 134, "Invalid packet";
    /// The packet ends before its L4 header does.
    CtTruncated = 135, "CT: Truncated or invalid header";
    /// An ethertype that is none of IPv4, IPv6, ARP.
    UnsupportedL2 = 166, "Unsupported L2 protocol";
    /// The interface is not configured: there is no endpoint to judge for.
    NoConfiguration = 165, "No configuration available to perform policy decision";
    /// The conntrack entry could not be made.
    CtInsertFailed = 155, "CT: Map insertion failed";
    /// The frontend has no backend, or the one that the flow goes to is gone.
    NoServiceBackend = 158, "Service backend not found";
    /// Extension headers that are malformed, or too many.
    InvalidExtensionHeader = 156, "Invalid IPv6 extension header";
    /// A later fragment whose first was not seen or not allowed.
    FragmentNotFound = 175, "First logical datagram fragment not found";
    /// A deny policy says so.
    PolicyDeny = 181, "Policy denied by denylist";
    /// A frame with a VLAN tag.
    Vlan = 182, "VLAN traffic disallowed by VLAN filter";
    /// Policy asks for authentication, which has no component yet.
    AuthRequired = 189, "Authentication required";
    /// Policy hands the flow to a proxy, which has no component yet.
    ProxyUnavailable = 210, "Policy needs a proxy that is not running";
    /// The flow was allowed once and is denied now.
    FlowDenied = 211, "Flow denied after a policy change";
    /// ARP sender address is not the endpoint's.
    ArpSenderIp = 212, "ARP sender address is not the endpoint's";
    /// ARP sender hardware address is not the endpoint's.
    ArpSenderMac = 213, "ARP sender hardware address is not the endpoint's";
    /// ARP that is malformed or not for Ethernet and IPv4.
    ArpMalformed = 214, "Malformed ARP";
    /// Neighbour advertisement for an address that is not the endpoint's.
    NdTarget = 215, "Neighbour advertisement for a foreign address";
    /// Duplicate address detection for an address that is not the endpoint's.
    DadTarget = 216, "Duplicate address detection for a foreign address";
    /// Link-layer option that is not the endpoint's MAC.
    NdLinkLayer = 217, "Neighbour discovery option with a foreign link-layer address";
    /// Neighbour discovery or MLD that is malformed or has the wrong hop limit.
    NdMalformed = 218, "Malformed neighbour discovery or MLD";
    /// Router advertisement from a pod, or to a pod from other than its host.
    RouterAdvertisement = 219, "Router advertisement";
    /// ICMP redirect from a pod, or to a pod from other than its host.
    IcmpRedirect = 220, "ICMP redirect";
    /// DHCP server reply from a pod.
    DhcpServer = 221, "DHCP server reply from a pod";
    /// First fragment without the whole L4 header.
    FragmentHeader = 222, "First fragment without the whole L4 header";
    /// Source route: an IPv4 option or an IPv6 routing header that is not used up.
    IpOptions = 223, "IP source route option";
    /// ICMP error from a pod about a packet that was not sent to it.
    IcmpErrorUnrelated = 224, "ICMP error about a packet that was not the endpoint's";
    /// A map changed under the program in each of its tries.
    MapRace = 225, "Map changed during lookup";
    /// Overlapping or reordered fragment with a port that contradicts the first.
    FragmentOverlap = 226, "Overlapping fragment";
    /// IPv6 source link-local for other than neighbour discovery and MLD.
    LinkLocalSource = 227, "Link-local source outside neighbour discovery";
    /// The frontend that the answered flow was sent to is gone.
    NoServiceFrontend = 228, "Service frontend not found";
    /// A connection to a frontend that was not seen to begin, and more backends than are judged for it.
    TooManyBackends = 229, "Too many service backends for a connection not seen from its start";
    /// SCTP to a frontend whose backend has another port: the checksum would have to be made anew.
    SctpPortTranslation = 230, "SCTP port translation";
    /// The packet could not be rewritten.
    RewriteFailed = 231, "Address translation failed";
    /// The ipcache has no room for the peer's identity, and not everybody may what it wants.
    NoRoomForIdentity = 232, "No room for the peer's identity";
}

impl core::fmt::Display for DropReason {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.text())
    }
}
