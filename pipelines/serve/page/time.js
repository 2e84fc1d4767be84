// Seconds for people: 3.25 s, and from a minute on 1:03.25 or 1:01:03.25.

export function moment(exact, digits = 2) {
  const seconds = Number(exact.toFixed(digits)); // before it is cut up, or 59.999 would be 0:60.00
  if (seconds < 60) return `${seconds.toFixed(digits)} s`;
  return minutes(seconds, digits);
}

export function stretch(begin, end, digits = 2) {
  if (end < 59.995) return `${begin.toFixed(digits)} to ${end.toFixed(digits)} s`;
  return `${minutes(begin, digits)} to ${minutes(end, digits)}`;
}

function minutes(exact, digits) {
  const seconds = Number(exact.toFixed(digits));
  const whole = Math.floor(seconds / 60);
  const rest = (seconds - 60 * whole).toFixed(digits).padStart(digits ? 3 + digits : 2, "0");
  if (whole < 60) return `${whole}:${rest}`;
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}:${rest}`;
}
