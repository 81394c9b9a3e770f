//! What a proxy has to do with a flow that a rule redirects.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::identity::Protocol;

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

/// `toPorts[].rules`. A list that is there and empty (`http: []`) asks nothing of a proxy: it is [`L7Rules::None`].
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

/// What kind of proxy a flow is handed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Parser {
    /// Only TLS: server names, or interception without HTTP rules.
    Tls,
    /// HTTP.
    Http,
    /// DNS.
    Dns,
    /// A listener of an Envoy configuration object.
    Listener,
}

impl Parser {
    /// What is asked of a proxy for flows of this protocol; none where the rule asks nothing.
    pub fn of(l7: &L7, protocol: Protocol) -> Option<Self> {
        if l7.listener.is_some() {
            return Some(Self::Listener);
        }
        match &l7.rules {
            L7Rules::Dns(rules) if !rules.is_empty() => Some(Self::Dns),
            L7Rules::Http(rules) if !rules.is_empty() && protocol == Protocol::TCP => {
                Some(Self::Http)
            }
            _ if l7.intercepts_tls || !l7.server_names.is_empty() => Some(Self::Tls),
            _ => None,
        }
    }

    /// As [`Parser::of`], where `ANY` stands for the protocols with ports.
    pub fn of_any(l7: &L7, protocol: Protocol) -> Option<Self> {
        if protocol == Protocol::ANY {
            return Self::of(l7, Protocol::TCP);
        }
        Self::of(l7, protocol)
    }

    /// The one that does what both ask, where there is one: HTTP covers TLS.
    pub fn merge(self, other: Self) -> Option<Self> {
        match (self, other) {
            (a, b) if a == b => Some(a),
            (Self::Tls, Self::Http) | (Self::Http, Self::Tls) => Some(Self::Http),
            _ => None,
        }
    }

    /// Order among redirects that claim the same flow, lower first; a listener may name its own.
    pub const fn default_priority(self) -> u8 {
        match self {
            Self::Http => 101,
            Self::Tls => 116,
            Self::Dns => 121,
            Self::Listener => 126,
        }
    }

    /// Its name, as Cilium's.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Http => "http",
            Self::Dns => "dns",
            Self::Listener => "crd",
        }
    }
}

/// To which proxy an entry hands its flows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Redirect {
    /// Order among redirects, lower first: 1…126.
    pub priority: u8,
    /// Kind of proxy.
    pub parser: Parser,
    /// The listener, for [`Parser::Listener`].
    pub listener: Option<Arc<Listener>>,
}

impl Redirect {
    /// What a rule asks of a proxy for flows of this protocol.
    pub fn of(l7: &L7, protocol: Protocol) -> Option<Self> {
        let parser = Parser::of(l7, protocol)?;
        let listener = l7.listener.clone().map(Arc::new);
        Some(Self {
            priority: listener
                .as_ref()
                .and_then(|listener| listener.priority)
                .unwrap_or(parser.default_priority()),
            parser,
            listener,
        })
    }
}
