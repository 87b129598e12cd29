package main

import (
	"bytes"
	"image/color"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// inks tell the gateways apart, for those who see no colours too: they differ in
// brightness.
var inks = []color.Color{
	color.RGBA{0x20, 0x70, 0xb0, 0xff},
	color.RGBA{0xe0, 0x90, 0x20, 0xff},
	color.RGBA{0x60, 0x60, 0x60, 0xff},
	color.RGBA{0xc0, 0xc0, 0xc0, 0xff},
}

// group is bars that stand together, one for each gateway.
type group struct {
	label  string
	values []float64
}

// bars adds a bar chart to the page and the files beside it.
func (r *report) bars(file, title, axis string, names []string, groups []group) error {
	p := plot.New()
	p.Title.Text = title
	p.Y.Label.Text = axis
	p.Y.Min = 0
	p.Legend.Top = true
	width := 14 * vg.Centimeter / vg.Length(len(groups)*(len(names)+1))
	highest := 0.0
	for i, name := range names {
		var values plotter.Values
		for _, g := range groups {
			values = append(values, g.values[i])
			highest = max(highest, g.values[i])
		}
		bar, err := plotter.NewBarChart(values, width)
		if err != nil {
			return err
		}
		bar.Color = inks[i%len(inks)]
		bar.LineStyle.Width = 0
		bar.Offset = width * (vg.Length(i) - vg.Length(len(names)-1)/2)
		p.Add(bar)
		p.Legend.Add(name, bar)
	}
	p.Y.Max = 1.4 * highest // room for the legend
	p.NominalX(of(groups, func(g group) string { return g.label })...)
	canvas := vgsvg.New(18*vg.Centimeter, 10*vg.Centimeter)
	p.Draw(draw.New(canvas))
	var svg bytes.Buffer
	if _, err := canvas.WriteTo(&svg); err != nil {
		return err
	}
	file = r.prefix + file
	r.plots[file] = svg.Bytes()
	r.line("")
	r.line("![%s](%s)", title, file)
	return nil
}
