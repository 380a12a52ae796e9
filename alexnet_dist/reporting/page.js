// Draws the charts, and draws them again when light turns to dark.
const read = (id) => JSON.parse(document.getElementById(id).textContent);
const specs = read("specs");
const themes = read("themes");
const dark = matchMedia("(prefers-color-scheme: dark)");
const drawn = {};

async function draw() {
  document.body.removeAttribute("data-drawn");
  const theme = dark.matches ? themes.dark : themes.light;
  for (const [name, spec] of Object.entries(specs)) {
    drawn[name]?.finalize();
    const place = document.getElementById(name);
    const columns = Math.max(1, Math.floor(place.clientWidth / 150)); // on a phone, a legend has several rows
    const config = { ...theme, legend: { ...theme.legend, columns } };
    drawn[name] = await vegaEmbed(place, spec, { config, actions: false, renderer: "svg" });
    // The place of the chart says what it shows; its parts would be hundreds of nameless pictures.
    place.querySelector("svg").setAttribute("aria-hidden", "true");
  }
  document.body.setAttribute("data-drawn", dark.matches ? "dark" : "light");
}

dark.addEventListener("change", draw);
draw();
