-- What Pandoc hands to both formats, made fit for a reader.
--
-- Interactive charts in HTML: ships the Vega libraries with every page that holds one, and with no other, and hands a
-- figure's alternative text to the image or chart inside it, where a screen reader looks for it.
--
-- Tables: their columns take what they need. Pandoc's widths are those of the Markdown, citations and markup included.

local generated = pandoc.path.join({ quarto.project.directory or ".", "assets", "generated" })
for _, name in ipairs({ "vega.js", "fonts/DejaVuSans.ttf" }) do
  local file = io.open(pandoc.path.join({ generated, name }))
  if file == nil then
    error("assets/generated/" .. name .. " is missing; `python -m src.assets` puts it there")
  end
  file:close()
end

local function escaped(text)
  return (text:gsub("&", "&amp;"):gsub('"', "&quot;"):gsub("<", "&lt;"))
end

local function describe(content, text)
  return content:walk({
    Image = function(image)
      image.attributes["alt"] = text
      return image
    end,
    RawBlock = function(block)
      local described = 'class="vega-chart" role="img" aria-label="' .. escaped(text) .. '"'
      block.text = block.text:gsub('class="vega%-chart"', (described:gsub("%%", "%%%%")))
      return block
    end,
  })
end

function FloatRefTarget(float)
  local text = float.attributes["fig-alt"]
  if text and quarto.doc.is_format("html") then
    float.content = describe(quarto.utils.as_blocks(float.content), text)
    float.attributes["fig-alt"] = nil
    return float
  end
end

function RawBlock(block)
  if quarto.doc.is_format("html") and block.text:find('class="vega-chart"', 1, true) then
    quarto.doc.add_html_dependency({
      name = "vega-charts",
      version = "1.0.0",
      scripts = { "generated/vega.js", "charts.js" },
    })
  end
end

function Table(tbl)
  for index, column in ipairs(tbl.colspecs) do
    tbl.colspecs[index] = { column[1], nil }
  end
  return tbl
end
