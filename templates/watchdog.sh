# Ends this machine when its time is over, or when nobody has asked for it for a while.
d=/run/piecework
mkdir -p $d; chmod 777 $d
echo @DEADLINE@ >$d/deadline; echo 0 >$d/heartbeat; chmod 666 $d/deadline $d/heartbeat
release() { (
@RELEASE@
); }
workers() {
    for p in /proc/[0-9]*; do
        case $(readlink "$p/exe") in *piecework-worker*) kill "${p#/proc/}";; esac
    done
}
watch() {
    deadline=@DEADLINE@ quiet=0 seen=0 limit=@BOOT@
    command -v curl || { apt-get update; apt-get install -y curl ca-certificates; } &
    while now=$(date +%s); [ "$now" -lt "$deadline" ] && [ "$quiet" -lt "$limit" ]; do
        if CHECK=1 release; then s=armed; else s=unable; fi
        echo "$s $now $deadline" >$d/state
        sleep @STEP@; quiet=$((quiet + @STEP@))
        t=$(cat $d/deadline); case $t in '' | *[!0-9]*) ;; *) deadline=$t;; esac
        t=$(cat $d/heartbeat)
        [ "$t" = "$seen" ] || { seen=$t quiet=0 limit=@SILENCE@; }
    done
    echo "ending $now $deadline" >$d/state
    workers
    until release; do sleep 20; done
    echo "ended $now $deadline" >$d/state
}
watch </dev/null >/dev/null 2>&1 &
