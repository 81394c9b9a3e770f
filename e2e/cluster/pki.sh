#!/usr/bin/env bash
# Certificates and kubeconfigs, made once per cluster: pki.sh [NODE...]. Elliptic keys, because they are quick to make.
. "$(dirname "$0")/lib.sh"
mkdir -p "$PKI" "$KUBECONFIGS"
cd "$PKI"
# Nodes start side by side, and openssl keeps one file of serial numbers.
exec 9>"$STATE/pki.lock"
flock 9

key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1.key"; }

authority() { # NAME COMMON-NAME
    [ ! -f "$1.crt" ] || return 0
    key "$1"
    openssl req -x509 -new -key "$1.key" -subj "/CN=$2" -days 3650 -out "$1.crt" \
        -addext keyUsage=critical,digitalSignature,keyCertSign 2>/dev/null
}

certificate() { # NAME AUTHORITY SUBJECT USAGE [ALTERNATIVE-NAMES]
    [ ! -f "$1.crt" ] || return 0
    key "$1"
    printf 'basicConstraints=CA:FALSE\nkeyUsage=digitalSignature,keyEncipherment\nextendedKeyUsage=%s\n%s\n' \
        "$4" "${5:+subjectAltName=$5}" >"$1.ext"
    openssl req -new -key "$1.key" -subj "$3" -out "$1.csr"
    openssl x509 -req -in "$1.csr" -CA "$2.crt" -CAkey "$2.key" -CAcreateserial -days 3650 \
        -extfile "$1.ext" -out "$1.crt" 2>/dev/null
}

kubeconfig() { # NAME
    [ ! -f "$KUBECONFIGS/$1.conf" ] || return 0
    cat >"$KUBECONFIGS/$1.conf.new" <<X
apiVersion: v1
kind: Config
clusters: [{name: $NAME, cluster: {server: "https://$CP_IP:6443", certificate-authority: $PKI/ca.crt}}]
users: [{name: $1, user: {client-certificate: $PKI/$1.crt, client-key: $PKI/$1.key}}]
contexts: [{name: $NAME, context: {cluster: $NAME, user: $1}}]
current-context: $NAME
X
    # Whole or not at all: others may be reading already.
    mv "$KUBECONFIGS/$1.conf.new" "$KUBECONFIGS/$1.conf"
}

authority ca "$NAME-ca"
authority front-ca "$NAME-front-ca"
if [ ! -f sa.pub ]; then
    openssl genrsa -out sa.key 2048 2>/dev/null
    openssl rsa -in sa.key -pubout -out sa.pub 2>/dev/null
fi
certificate apiserver ca /CN=kube-apiserver serverAuth \
    "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local,DNS:localhost,IP:127.0.0.1,IP:10.96.0.1,IP:$CP_IP"
certificate kubelet-client ca /O=system:masters/CN=kube-apiserver-kubelet-client clientAuth
certificate front-proxy front-ca /CN=front-proxy-client clientAuth
certificate admin ca /O=system:masters/CN=admin clientAuth
certificate controller-manager ca /CN=system:kube-controller-manager clientAuth
certificate scheduler ca /CN=system:kube-scheduler clientAuth
certificate proxy ca /CN=system:kube-proxy clientAuth
for user in admin controller-manager scheduler proxy; do kubeconfig "$user"; done
for node in "$@"; do
    certificate "$node" ca "/O=system:nodes/CN=system:node:$node" clientAuth
    kubeconfig "$node"
done
