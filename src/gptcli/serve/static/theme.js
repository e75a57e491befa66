// The theme that was chosen on this machine, set before the first paint.
// A classic script, since modules run only after the page is parsed.
try {
  const theme = localStorage.getItem("gptcli-theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // Storage is forbidden: the system's theme is used.
}
