set -eu
docker -H "$DOCKER_LB_NODE_1" run --rm -i --name haproxy-1-config --label siem-ha.stack=local --network none --user 0 \
  --cap-drop ALL --cap-add CHOWN --cap-add DAC_OVERRIDE --security-opt no-new-privileges \
  -e HAPROXY_CFG -v haproxy-1-config:/usr/local/etc/haproxy -v haproxy-1-pair:/var/lib/vip-pair --entrypoint sh haproxy:3.0.11 -c '
    set -eu
    chown 99:99 /var/lib/vip-pair
    cd /usr/local/etc/haproxy
    next=$(mktemp -d conf.XXXXXX)
    trap "rm -rf $next" EXIT
    printf "%s" "$HAPROXY_CFG" > $next/20-haproxy.cfg
    cat > $next/10-users.cfg
    chmod 0750 $next && chmod 0640 $next/*.cfg && chown -R 0:99 $next
    haproxy -c -f $next >/dev/null
    old=$(readlink live || true)
    ln -s $next live.next && mv -T live.next live
    trap - EXIT
    [ -z "$old" ] || rm -rf "$old"'
if [ "$(docker -H "$DOCKER_LB_NODE_1" container inspect -f '{{.State.Running}}' haproxy-1 2>/dev/null)" = true ]; then
  docker -H "$DOCKER_LB_NODE_1" kill --signal USR2 haproxy-1 >/dev/null
fi
