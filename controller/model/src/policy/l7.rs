//! What a proxy has to do with a flow that a rule redirects.

use std::collections::BTreeSet;
use std::sync::Arc;

/// The proxy's part of a port rule: rule set, server names, listener.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct L7 {
    /// Requests that are allowed.
    pub rules: L7Rules,
    /// `serverNames`: TLS server names (SNI), exact or with `*`, as written.
    pub server_names: BTreeSet<Arc<str>>,
    /// `listener`: of an Envoy configuration object.
    pub listener: Option<Listener>,
    /// `terminatingTLS` or `originatingTLS` is set.
    pub intercepts_tls: bool,
}

impl L7 {
    /// Nothing for a proxy to do.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// `toPorts[].rules`. Absent and empty are different: `http: []` redirects and allows every request.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum L7Rules {
    /// No `rules`, or `rules: {}`.
    #[default]
    None,
    /// `http`.
    Http(BTreeSet<HttpRule>),
    /// `dns`.
    Dns(BTreeSet<DnsRule>),
}

/// An HTTP request that is allowed; an absent field allows everything there.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HttpRule {
    /// Extended POSIX regular expression of the path.
    pub path: Option<Arc<str>>,
    /// Extended POSIX regular expression of the method.
    pub method: Option<Arc<str>>,
    /// Extended POSIX regular expression of the host.
    pub host: Option<Arc<str>>,
    /// Headers that must be there: `Name: value` or `Name`.
    pub headers: BTreeSet<Arc<str>>,
    /// `headerMatches`, as canonical JSON of each.
    pub header_matches: BTreeSet<Arc<str>>,
}

/// A DNS query that is allowed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DnsRule {
    /// `matchName`.
    Name(Arc<str>),
    /// `matchPattern`.
    Pattern(Arc<str>),
}

/// `toPorts[].listener`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Listener {
    /// Kind of the Envoy configuration: `CiliumEnvoyConfig` or `CiliumClusterwideEnvoyConfig`.
    pub kind: Arc<str>,
    /// Its name.
    pub config: Arc<str>,
    /// Name of the listener in it.
    pub name: Arc<str>,
    /// 1 (first) … 100; `None` (or 0 in the object) is after all others.
    pub priority: Option<u8>,
}

/// `authentication.mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AuthMode {
    /// `disabled`: explicitly none.
    Disabled,
    /// `required`: mutual authentication (spire).
    Required,
    /// `test-always-fail`.
    AlwaysFail,
}

impl AuthMode {
    /// The number in a policy entry's auth byte, without the explicit bit.
    pub const fn number(self) -> u8 {
        match self {
            Self::Disabled => 0,
            Self::Required => 1,
            Self::AlwaysFail => 2,
        }
    }
}
