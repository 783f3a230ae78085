# Draws how far a run is: one line that is redrawn on a terminal, a plain line now and then elsewhere.
# Sourced by demo.sh. draw_progress STATE STEP STEPS LOSS TOKENS_PER_SECOND SECONDS_LEFT DEVICE; end_progress when done.

if [ -t 1 ] && [ "${TERM:-dumb}" != dumb ]; then progress_is_live=1; else progress_is_live=0; fi
progress_last=-100

clock_text() { # seconds, perhaps with a fraction, perhaps empty
  local seconds=${1%.*}
  if [ -z "$seconds" ]; then printf -- '-:--'; else printf '%d:%02d' $((seconds / 60)) $((seconds % 60)); fi
}

draw_progress() {
  local state=$1 step=${2:-0} steps=${3:-0} loss=${4:-} speed=${5:-} left=${6:-} device=${7:-} text percent=0 width filled bar
  if [ "$steps" -gt 0 ]; then percent=$((100 * step / steps)); fi
  text="step $step/$steps"
  if [ -n "$loss" ]; then text+="  loss $(printf '%.3f' "$loss")"; fi
  if [ -n "$speed" ]; then text+="  $(printf '%.0f' "$speed") tokens/s"; fi
  if [ "$state" = running ] && [ -n "$left" ]; then text+="  $(clock_text "$left") left"; else text+="  $state"; fi
  if [ -n "$device" ]; then text+="  $device"; fi

  if [ "$progress_is_live" = 1 ]; then
    width=$(($(tput cols 2>/dev/null || echo 80) - ${#text} - 10))
    if [ "$width" -gt 40 ]; then width=40; fi
    bar=
    if [ "$width" -ge 5 ]; then
      filled=$((width * percent / 100))
      bar=$(printf '%*s' "$filled" '' | sed 's/ /█/g')$(printf '%*s' $((width - filled)) '' | sed 's/ /░/g')
    fi
    printf '\r\033[K%s %3d%%  %s' "$bar" "$percent" "$text"
  elif [ $((SECONDS - progress_last)) -ge 5 ] || [ "$state" != "${progress_state:-}" ]; then
    printf '%3d%%  %s\n' "$percent" "$text"
    progress_last=$SECONDS
  fi
  progress_state=$state
}

end_progress() { if [ "$progress_is_live" = 1 ]; then printf '\n'; fi; }
