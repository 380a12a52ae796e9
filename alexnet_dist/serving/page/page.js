"use strict";

// Texts come from a network's class names and from file names: they are only ever put in as text, never as HTML.
const part = (id) => document.getElementById(id);
let mostBytes = Infinity;
let latest = 0; // the number of the latest image; answers to earlier ones are dropped
let shown = ""; // the address of the image on the page

async function introduce() {
  const health = await (await fetch("health")).json();
  mostBytes = health.most_bytes;
  part("model").textContent = `${health.model}, ${health.classes} ${health.classes === 1 ? "class" : "classes"}`;
}

async function ask(file) {
  const number = ++latest;
  part("error").hidden = true;
  part("answer").hidden = true;
  part("status").textContent = `Looking at ${file.name} ...`;
  try {
    const answer = await answerFor(file);
    if (number === latest) await show(file, answer);
  } catch (error) {
    if (number === latest) fail(error.message);
  }
}

async function answerFor(file) {
  if (file.size > mostBytes) {
    throw new Error(`The image is larger than ${mostBytes / 1e6} MB. Make it smaller.`);
  }
  let response;
  try {
    response = await fetch("predict?explain=grad-cam", { method: "POST", body: file });
  } catch {
    throw new Error("The server does not answer. Is alexnet-serve still running?");
  }
  if (response.status === 415) throw new Error(`${file.name} is no JPEG or PNG file that can be read.`);
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

function fail(text) {
  part("status").textContent = "";
  part("error").textContent = text;
  part("error").hidden = false;
}

const percent = (share) => `${(100 * share).toFixed(1)} %`;

// In words, for those who don't see the colours.
function whereabouts({ x, y }) {
  const third = (share, names) => names[Math.min(2, Math.floor(3 * share))];
  const [row, column] = [third(y, ["top", "middle", "bottom"]), third(x, ["left", "middle", "right"])];
  if (row === "middle" && column === "middle") return "in the middle";
  if (row === "middle") return `in the middle of the ${column}`;
  return column === "middle" ? `in the middle of the ${row}` : `at the ${row} ${column}`;
}

async function show(file, answer) {
  const [best] = answer.predictions;
  URL.revokeObjectURL(shown);
  shown = URL.createObjectURL(file);
  part("picture").src = shown;
  part("picture").alt = `Your image, ${file.name}`;
  part("map").src = answer.map.png;
  part("map").alt = "";
  // Decoded before they are seen, so that picture and colours appear together. A picture that the browser can't show, but
  // the server can read, is no reason to keep the answer back.
  await Promise.allSettled([part("picture").decode(), part("map").decode()]);
  part("best").textContent = `${best.class}, ${percent(best.probability)}`;
  part("caption").textContent =
    (answer.map.x === null
      ? `No part of the image speaks for ${best.class}: the other classes are less probable still.`
      : `Coloured: what the network has looked at to say ${best.class}, most of all ${whereabouts(answer.map)}.`) +
    " What is outside of the central square it is not given.";
  part("classes").replaceChildren(...answer.predictions.map(row));
  part("took").textContent =
    `${answer.width} x ${answer.height} pixels, answered in ${Math.round(1000 * answer.seconds)} ms`;
  part("status").textContent = `${file.name}: ${best.class}, ${percent(best.probability)}`;
  part("answer").hidden = false;
}

function row(prediction) {
  const [line, name, cell, bar, text] = ["tr", "th", "td", "progress", "span"].map((tag) => document.createElement(tag));
  name.scope = "row";
  name.textContent = prediction.class;
  bar.max = 1;
  bar.value = prediction.probability;
  bar.setAttribute("aria-hidden", "true"); // the number beside it says the same
  text.textContent = percent(prediction.probability);
  cell.append(bar, text);
  line.append(name, cell);
  return line;
}

part("file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  event.target.value = ""; // so that the same file can be chosen again
  if (file) ask(file);
});
part("strength").addEventListener("input", (event) => {
  const share = event.target.value / 100;
  part("map").style.opacity = share;
  part("picture").style.filter = `grayscale(${share})`;
});
// Anywhere on the page: a file that misses the box would otherwise take the page's place.
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  part("drop").classList.add("over");
});
document.addEventListener("dragleave", () => part("drop").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  part("drop").classList.remove("over");
  const [file] = event.dataTransfer.files;
  if (file) ask(file);
  else fail("Nothing was dropped that is a file.");
});
introduce().catch(() => fail("The server does not answer. Is alexnet-serve still running?"));
