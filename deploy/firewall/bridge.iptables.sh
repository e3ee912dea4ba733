#!/bin/sh
# The firewall of the machine on which OpenBao and the bridge run: nothing comes in; out go TCP to the broker
# (reverse mode) or the beacon, and DNS. IPv6 is closed, but for addresses that are given.
#
#   deploy/firewall/bridge.iptables.sh ADDRESS[:PORT] [[IPv6-ADDRESS]:PORT …]      (port 443 unless told)
#   DNS="192.0.2.53" ALLOW_SSH_FROM=198.51.100.0/24 deploy/firewall/bridge.iptables.sh 203.0.113.10
#
#   DNS              the only resolvers that may be asked; any without it
#   ALLOW_SSH_FROM   network that may come in on port 22; without it nobody, so run it from a console
#
# It replaces what is in INPUT, OUTPUT and FORWARD of the filter table; run again, the result is the same. The
# policies are set first and addresses are checked before anything is touched: there is no moment in which more
# is open than before. Keep it over restarts with iptables-save, or from a unit before network.target.
set -eu

fail() { echo "bridge.iptables.sh: $1" >&2; exit 2; }

[ $# -gt 0 ] || fail "no address is given; give the broker's or the beacon's, as 203.0.113.10 or 203.0.113.10:8443"
four='' six=''
for peer in "$@"; do
  case $peer in
    *[!0-9a-fA-F.:\[\]]*) fail "'$peer' is not an IP address; look the name up, and give every address it has" ;;
    \[*\]:*) six="$six ${peer%]:*},${peer##*]:}" ;;
    \[*\]) six="$six ${peer%]},443" ;;
    *:*:*) six="$six [$peer,443" ;;
    *:*) four="$four ${peer%:*},${peer##*:}" ;;
    *) four="$four $peer,443" ;;
  esac
done

close() { # every rule goes, but not before the policies are set
  for chain in INPUT FORWARD OUTPUT; do $1 -P $chain DROP; done
  for chain in INPUT FORWARD OUTPUT; do $1 -F $chain; done
  $1 -A INPUT -i lo -j ACCEPT
  $1 -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
  $1 -A OUTPUT -o lo -j ACCEPT
  $1 -A OUTPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
}

resolve() { # $1: tool, $2: resolver or nothing
  for protocol in udp tcp; do $1 -A OUTPUT ${2:+-d "$2"} -p $protocol --dport 53 -j ACCEPT; done
}

close iptables
for peer in $four; do iptables -A OUTPUT -d "${peer%,*}" -p tcp --dport "${peer#*,}" -j ACCEPT; done
if [ -n "${ALLOW_SSH_FROM:-}" ]; then iptables -A INPUT -s "$ALLOW_SSH_FROM" -p tcp --dport 22 -j ACCEPT; fi
if [ -z "${DNS:-}" ]; then resolve iptables ''; fi
for resolver in ${DNS:-}; do
  case $resolver in *:*) ;; *) resolve iptables "$resolver" ;; esac
done

if [ -e /proc/net/if_inet6 ] && command -v ip6tables >/dev/null; then
  close ip6tables
  for type in neighbour-solicitation neighbour-advertisement router-advertisement; do
    ip6tables -A INPUT -p ipv6-icmp --icmpv6-type $type -j ACCEPT
  done
  for type in neighbour-solicitation neighbour-advertisement router-solicitation; do
    ip6tables -A OUTPUT -p ipv6-icmp --icmpv6-type $type -j ACCEPT
  done
  for peer in $six; do
    address=${peer%,*}
    ip6tables -A OUTPUT -d "${address#[}" -p tcp --dport "${peer#*,}" -j ACCEPT
  done
  for resolver in ${DNS:-}; do
    case $resolver in *:*) resolve ip6tables "$resolver" ;; esac
  done
fi
