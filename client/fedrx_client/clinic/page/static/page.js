// Moves sliders with their numbers, and asks a what-if without loading the page again.
"use strict";
(() => {
  const form = document.getElementById("ask");
  if (!form) return;
  let waiting = 0;
  let asked = 0;

  const ask = async () => {
    const number = ++asked;
    if (!form.checkValidity()) {
      form.reportValidity();
      return;
    }
    const place = document.getElementById("answer");
    place.setAttribute("aria-busy", "true");
    try {
      const reply = await fetch(form.action, {
        method: "POST",
        headers: { "X-Part": "answer" },
        body: new URLSearchParams(new FormData(form)),
        credentials: "same-origin",
        cache: "no-store",
      });
      const text = await reply.text();
      if (number !== asked) return; // a later question is on its way
      const page = new DOMParser().parseFromString(text, "text/html");
      const found = page.getElementById("answer");
      if (found) {
        place.replaceChildren(...found.childNodes);
      } else {
        // Not an answer: the visit or the look has ended, and the page says so.
        const told = page.querySelector("[role=alert]");
        const line = document.createElement("p");
        line.className = "problem";
        line.textContent = told ? told.textContent : "The server does not answer as expected.";
        place.replaceChildren(line);
      }
    } catch {
      const line = document.createElement("p");
      line.className = "problem";
      line.textContent = "The server cannot be reached; try again.";
      place.replaceChildren(line);
    } finally {
      if (number === asked) place.removeAttribute("aria-busy");
    }
  };

  const soon = () => {
    clearTimeout(waiting);
    waiting = setTimeout(ask, 250);
  };

  for (const slider of form.querySelectorAll("input[type=range]")) {
    const field = document.getElementById(slider.dataset.for);
    slider.hidden = false;
    slider.addEventListener("input", () => {
      field.value = slider.value;
    });
    field.addEventListener("input", () => {
      if (field.value !== "") slider.value = field.value;
    });
  }
  form.addEventListener("change", soon);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    clearTimeout(waiting);
    ask();
  });
  form.addEventListener("reset", () => {
    setTimeout(soon, 0);
  });
})();
