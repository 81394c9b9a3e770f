//! Why a packet passes or not.

use serde::{Deserialize, Serialize};

/// The answer to FROM TO PORT/PROTO.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ExplainReport {
    /// The packet passes both hooks.
    pub allowed: bool,
    /// The packet as understood.
    pub packet: String,
    /// Where the packet goes to a service: what becomes of it at each backend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ExplainService>,
    /// Where the sender's pod is of this node: its egress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<ExplainSide>,
    /// Where the receiver's pod is of this node: its ingress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<ExplainSide>,
}

/// A service that a packet goes to. The first packet of a flow chooses one of the backends; what is told of the hooks is
/// of the first backend that it does not reach, or of the first one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ExplainService {
    /// `namespace/name`.
    pub name: String,
    /// Where it is reached, of the port asked for.
    pub frontends: Vec<String>,
    /// Where new flows may go; packets are dropped where there is none.
    pub backends: Vec<ExplainBackend>,
    /// What the program did with a packet to each frontend, where it was asked. It is the sender's: `from_container`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub programs: Vec<ProgramVerdict>,
}

/// A backend that a packet may go to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ExplainBackend {
    /// Its address, port and protocol.
    pub backend: String,
    /// Who it is.
    pub name: String,
    /// Its identity.
    pub identity: u32,
    /// The packet reaches it.
    pub allowed: bool,
    /// It is the sender: the packet goes back to it, outside policy.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub itself: bool,
}

/// One hook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ExplainSide {
    /// Pod whose policy it is.
    pub subject: String,
    /// Its identity.
    pub subject_identity: u32,
    /// The other side.
    pub remote: String,
    /// Its identity.
    pub remote_identity: u32,
    /// Policy is enforced in this direction.
    pub enforced: bool,
    /// `allow`, `deny`, …
    pub verdict: Explained,
    /// Why, in a sentence.
    pub reason: String,
    /// The winning entry, as a person reads it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<String>,
    /// Rules that made the entry, each with file and line where known.
    pub rules: Vec<String>,
    /// What would have won otherwise, best first.
    pub otherwise: Vec<Alternative>,
    /// What the programs did with a packet of each family, where they were asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub programs: Vec<ProgramVerdict>,
}

/// What a program did with a packet made for the question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ProgramVerdict {
    /// The program, e.g. `from_container`.
    pub program: String,
    /// The packet.
    pub packet: String,
    /// Identity that its remote address has.
    pub remote_identity: u32,
    /// It passes.
    pub passes: bool,
    /// Why it was dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What the table says of this packet.
    pub table: Explained,
    /// Both say the same: if not, the kernel does not do what the agent believes.
    pub agrees: bool,
}

impl ExplainReport {
    /// Program and table say different things of some packet.
    pub fn contradicts_itself(&self) -> bool {
        let sides = [&self.egress, &self.ingress].into_iter().flatten();
        let of_service = self.service.iter().flat_map(|service| &service.programs);
        sides
            .flat_map(|side| &side.programs)
            .chain(of_service)
            .any(|asked| !asked.agrees)
    }
}

/// What one hook does with the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Explained {
    /// Passes.
    Allow,
    /// A deny rule drops it.
    Deny,
    /// No rule allows it.
    NotAllowed,
    /// A rule hands it to a proxy, which is not running: dropped.
    Redirect,
    /// A rule asks for authentication, which is not available: dropped.
    Auth,
    /// The ipcache has no room for who the other side is, and not everybody may this: dropped.
    NoRoom,
}

/// An entry that matched and did not win.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alternative {
    /// The entry.
    pub entry: String,
    /// Its rules.
    pub rules: Vec<String>,
    /// Why it did not win.
    pub why_not: String,
}
