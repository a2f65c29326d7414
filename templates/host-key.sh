# Lets the very first connection tell that it has reached this machine.
mkdir -p /etc/ssh
(umask 077; cat >/etc/ssh/ssh_host_ed25519_key <<'KEY'
@KEY@
KEY
)
rm -f /etc/ssh/ssh_host_ed25519_key.pub
for p in /proc/[0-9]*; do
    case $(readlink "$p/exe") in */sshd) kill -HUP "${p#/proc/}";; esac
done
