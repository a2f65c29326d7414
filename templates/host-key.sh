# Lets the very first connection tell that it has reached this machine.
k=/etc/ssh/ssh_host_ed25519_key
mkdir -p /etc/ssh
(umask 077; cat >$k <<'KEY'
@KEY@
KEY
)
rm -f $k.pub
# Whoever serves with this key reads it again. A session would end instead: it is a child of one.
is_sshd() {
    case $(readlink "/proc/$1/exe") in */sshd) ;; *) return 1;; esac
    [ "$(cat "/proc/$1/root$k")" = "$(cat $k)" ]
}
l=
for p in /proc/[0-9]*; do
    p=${p#/proc/}
    is_sshd "$p" && ! is_sshd "$(sed -n 's/^PPid:[^0-9]*//p' "/proc/$p/status")" && l="$l $p"
done
[ -z "$l" ] || kill -HUP $l
