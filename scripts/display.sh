# Starts an X server that draws nowhere, with software GL, and stops it when the shell that read this ends. Sets
# $scratch, a folder that goes away with it. Ends with a reason where that cannot be done.
#
# Where it is missing and this is root on a Debian, it is installed.
need_display() {
    if ! command -v Xvfb > /dev/null && [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
        echo "installing xvfb and Mesa's software renderers"
        { apt-get update -qq && apt-get install -y -qq --no-install-recommends \
            xvfb libgl1-mesa-dri libgl1 libegl1 libxkbcommon-x11-0 libxcursor1 libxi6 libxrandr2 \
            mesa-vulkan-drivers; } > /dev/null 2>&1 || echo "apt-get could not install them"
    fi
    command -v Xvfb > /dev/null
}

if ! need_display; then
    echo "skipped: Xvfb is not here (Debian: xvfb libgl1-mesa-dri), so no window can be opened" >&2
    exit "${EXEUNT_NO_DISPLAY:-0}"
fi

scratch=$(mktemp -d)
display=":$((RANDOM % 500 + 100))"
Xvfb "$display" -screen 0 "${EXEUNT_SCREEN:-3840x2160x24}" -nolisten tcp > "$scratch/xvfb.log" 2>&1 &
server=$!
trap 'kill "$server" 2> /dev/null || true; rm -rf "$scratch"' EXIT
for _ in $(seq 100); do
    [ -e "/tmp/.X11-unix/X${display#:}" ] && break
    sleep 0.1
done

export DISPLAY=$display LIBGL_ALWAYS_SOFTWARE=1 XDG_CONFIG_HOME="$scratch/config" XDG_RUNTIME_DIR="$scratch"
unset WAYLAND_DISPLAY
