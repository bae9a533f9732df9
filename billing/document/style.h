// How documents look: the one place for sizes and colours, in PDF points (1/72 inch).
#pragma once

namespace gantry::document::style {

// A4, ISO 216.
inline constexpr double kPageWidth = 595.276, kPageHeight = 841.890;
inline constexpr double kMarginSide = 56.7, kMarginTop = 51, kMarginBottom = 68;  // 20, 18, 24 mm
inline constexpr double kContentWidth = kPageWidth - 2 * kMarginSide;
inline constexpr double kRunningHead = 30;     // height of the line that names the document on later pages
inline constexpr double kFooterBaseline = 36;  // from the lower edge

// Families in order of preference; fontconfig takes the first that has a character. Open Sans and WenQuanYi Micro Hei
// come of one design (Droid Sans), so that Latin and Chinese stand well in one line.
inline constexpr const char* kFamilies =
    "Open Sans, WenQuanYi Micro Hei, Noto Sans CJK SC, Noto Sans, Liberation Sans, DejaVu Sans";

struct Colour {
  double red, green, blue;
};
inline constexpr Colour kInk{0.11, 0.13, 0.16}, kGrey{0.40, 0.44, 0.50}, kAccent{0.09, 0.25, 0.43},
    kHair{0.84, 0.86, 0.89}, kTint{0.955, 0.963, 0.975}, kGood{0.09, 0.43, 0.24}, kBad{0.68, 0.13, 0.13},
    kWarning{0.62, 0.38, 0.02};

// A size of type and the distance of its lines: fixed, whichever fonts a line falls back to.
struct Type {
  double size, leading;
  int weight;  // of Pango and CSS: 400 regular, 600 semibold, 700 bold
  Colour colour;
};
inline constexpr Type kTitle{21, 27, 600, kAccent}, kSubtitle{10.5, 15, 400, kGrey}, kIssuer{11, 15, 700, kInk},
    kIssuerLine{7.8, 11, 400, kGrey}, kHeading1{12.5, 17, 600, kAccent}, kHeading2{10, 14, 600, kInk},
    kBody{9.3, 13.6, 400, kInk}, kBodyStrong{9.3, 13.6, 700, kInk}, kLabel{7.8, 11.5, 400, kGrey},
    kCell{8.6, 12, 400, kInk}, kCellStrong{8.6, 12, 700, kInk}, kCellHead{7.8, 11, 600, kAccent},
    kNoteTitle{11.5, 16, 700, kAccent}, kSmall{7.4, 10, 400, kGrey};

}  // namespace gantry::document::style
