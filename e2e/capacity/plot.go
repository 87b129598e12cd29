package main

import (
	"bytes"
	"image/color"
	"math"
	"slices"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// plotted is how much of a storm is drawn at the most.
const plotted = 90 * time.Second

// inks tell the clients apart, for those who see no colours too: they differ in
// brightness.
var inks = []color.Color{
	color.RGBA{0xb0, 0x1e, 0x1e, 0xff},
	color.RGBA{0xe0, 0x90, 0x20, 0xff},
	color.RGBA{0x20, 0x70, 0xb0, 0xff},
	color.RGBA{0x10, 0x40, 0x30, 0xff},
}

// plot draws the largest storm, as SVG: who is back above, what waits for a core
// below.
func (m *model) plot(o *order) ([]byte, error) {
	played, _ := m.played(o)
	sessions := slices.Max(played)
	back, queue := plot.New(), plot.New()
	back.Title.Text = whole(float64(sessions)) + " sessions after the restart of their Traefik"
	back.Y.Label.Text = "players back, %"
	queue.Y.Label.Text = "handshakes in hand, thousands"
	queue.X.Label.Text = "seconds after the loss"
	back.Legend.Top, back.Legend.Left = false, false
	back.Y.Min, back.Y.Max = 0, 100
	for i, c := range m.clients() {
		course := m.storm(o, sessions, c, m.assumed.clientTimeout).simulate().course
		var backs, queues plotter.XYs
		for _, p := range course {
			if p.at > plotted {
				break
			}
			backs = append(backs, plotter.XY{X: p.at.Seconds(), Y: 100 * float64(p.back) / float64(sessions)})
			queues = append(queues, plotter.XY{X: p.at.Seconds(), Y: float64(p.queue) / 1000})
		}
		for _, side := range []struct {
			plot   *plot.Plot
			points plotter.XYs
		}{{back, backs}, {queue, queues}} {
			line, err := plotter.NewLine(side.points)
			if err != nil {
				return nil, err
			}
			line.Color, line.Width = inks[i%len(inks)], vg.Points(1.5)
			side.plot.Add(line)
			if side.plot == back {
				back.Legend.Add(c.what, line)
			}
		}
	}
	for _, p := range []*plot.Plot{back, queue} {
		p.Add(plotter.NewGrid())
		p.X.Min = 0
		p.X.Max = math.Max(back.X.Max, queue.X.Max)
	}
	canvas := vgsvg.New(18*vg.Centimeter, 16*vg.Centimeter)
	tiles := draw.Tiles{Rows: 2, Cols: 1, PadX: vg.Centimeter, PadY: vg.Centimeter / 2, PadTop: vg.Millimeter, PadBottom: vg.Millimeter, PadLeft: vg.Millimeter, PadRight: 5 * vg.Millimeter}
	grid := [][]*plot.Plot{{back}, {queue}}
	for i, row := range plot.Align(grid, tiles, draw.New(canvas)) {
		grid[i][0].Draw(row[0])
	}
	var svg bytes.Buffer
	_, err := canvas.WriteTo(&svg)
	return svg.Bytes(), err
}
